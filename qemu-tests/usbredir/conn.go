package usbredir

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxWaiting is how many transfers may wait for one endpoint.
const maxWaiting = 1024

// conn is one connection of QEMU's.
type conn struct {
	server *Server
	net    net.Conn
	ctx    context.Context // of the connection
	cancel context.CancelFunc
	caps   uint32 // that both sides have

	sending sync.Mutex
	wide    bool // ids have 64 bits: once the hellos are exchanged

	wg         sync.WaitGroup
	mu         sync.Mutex
	here       bool               // QEMU was told of the device
	plug       context.Context    // until it is unplugged
	unplug     context.CancelFunc // ends it
	queues     map[byte]chan func()
	transfers  map[uint64]context.CancelFunc
	interrupts map[byte]context.CancelFunc
}

func newConn(ctx context.Context, s *Server, nc net.Conn) *conn {
	c := &conn{server: s, net: nc, queues: map[byte]chan func(){}, transfers: map[uint64]context.CancelFunc{}, interrupts: map[byte]context.CancelFunc{}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// serve is the connection's life. It returns nil when QEMU ended it between two packets, or when nothing could be sent
// to it any more.
func (c *conn) serve() error {
	defer c.wg.Wait()
	defer c.cancel()
	defer c.net.Close()
	stop := context.AfterFunc(c.ctx, func() { c.net.Close() })
	defer stop()
	if err := c.greet(); err != nil {
		return err
	}
	c.server.ready(c)
	defer c.server.over(c)
	for {
		p, err := readPacket(c.net, true)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			err = c.take(p)
		}
		if err != nil {
			return fmt.Errorf("from QEMU: %w", err)
		}
	}
}

// greet exchanges hellos.
func (c *conn) greet() error {
	h := hello()
	if _, err := c.net.Write(h.encode(false)); err != nil {
		return err
	}
	p, err := readPacket(c.net, false)
	switch {
	case err != nil:
		return fmt.Errorf("QEMU's hello: %w", err)
	case p.typ != typeHello:
		return fmt.Errorf("byte 0: packet type %d instead of a hello", p.typ)
	case p.caps()&neededCaps != neededCaps:
		return fmt.Errorf("byte %d: QEMU's capabilities are %#x, without some of %#x", 12+versionLen, p.caps(), neededCaps)
	}
	c.caps, c.wide = p.caps()&ourCaps, true
	return nil
}

// send sends packets behind each other. An error closes the connection, which its reader then sees.
func (c *conn) send(packets ...packet) {
	c.sending.Lock()
	defer c.sending.Unlock()
	for _, p := range packets {
		if _, err := c.net.Write(p.encode(c.wide)); err != nil {
			c.net.Close()
			return
		}
	}
}

// attach tells QEMU of the device: first what it consists of, as all of it has to be known when it comes.
func (c *conn) attach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.here = true
	c.plug, c.unplug = context.WithCancel(c.ctx)
	face, active := c.server.Device.Face(), c.server.Device.Active()
	c.send(interfaceInfo(active), epInfo(active), deviceConnect(&face, c.caps))
}

// detach tells QEMU that the device is gone, and ends all that goes on. It reports whether QEMU will answer.
func (c *conn) detach() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.here {
		return false
	}
	c.here = false
	c.unplug()
	for endpoint, stop := range c.interrupts {
		stop()
		delete(c.interrupts, endpoint)
	}
	c.send(packet{typ: typeDeviceDisconnect})
	return c.caps&capDisconnectAck != 0
}

// take does what a packet asks for, or has it done.
func (c *conn) take(p packet) error {
	switch p.typ {
	case typeHello:
		return errors.New("byte 0: a second hello")
	case typeCancelDataPacket:
		c.cancelTransfer(p.id)
	case typeDeviceDisconnectAck:
		c.server.acknowledged()
	case typeFilterReject:
		c.server.failed(errRefused)
	case typeFilterFilter: // QEMU applies it itself
	case typeReset:
		c.cancelAll()
		return c.queue(0, func() { c.server.Device.Reset() })
	case typeSetConfiguration:
		return c.transfer(0, p.id, func(ctx context.Context) { c.configuration(ctx, p) })
	case typeGetConfiguration, typeSetAltSetting, typeGetAltSetting:
		return c.transfer(0, p.id, func(ctx context.Context) { c.setting(ctx, p) })
	case typeControlPacket:
		return c.transfer(0, p.id, func(ctx context.Context) { c.control(ctx, p) })
	case typeBulkPacket, typeInterruptPacket:
		return c.transfer(p.head[0], p.id, func(ctx context.Context) { c.bulk(ctx, p) })
	case typeStartInterruptReceiving:
		c.startInterrupts(p)
	case typeStopInterruptReceiving:
		c.stopInterrupts(p)
	case typeStartIsoStream, typeStopIsoStream:
		c.send(packet{typ: typeIsoStreamStatus, id: p.id, head: []byte{statusStall, p.head[0]}})
	case typeAllocBulkStreams, typeFreeBulkStreams:
		no := make([]byte, 4)
		c.send(packet{typ: typeBulkStreamsStatus, id: p.id, head: append(append(p.head[:4:4], no...), statusInvalid)})
	}
	return nil
}

// queue has something done on an endpoint, after all that waits there.
func (c *conn) queue(endpoint byte, do func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[endpoint]
	if q == nil {
		q = make(chan func(), maxWaiting)
		c.queues[endpoint] = q
		c.wg.Go(func() {
			for {
				select {
				case do := <-q:
					do()
				case <-c.ctx.Done():
					return
				}
			}
		})
	}
	select {
	case q <- do:
		return nil
	default:
		return fmt.Errorf("more than %d transfers wait for endpoint %02xh", maxWaiting, endpoint)
	}
}

// transfer has a transfer done on an endpoint. Its context ends when it is cancelled, or the device reset or unplugged;
// of a device that isn't there it is cancelled at once.
func (c *conn) transfer(endpoint byte, id uint64, do func(context.Context)) error {
	c.mu.Lock()
	if c.transfers[id] != nil {
		c.mu.Unlock()
		return fmt.Errorf("byte 8: a second transfer %d while the first one goes on", id)
	}
	parent := c.plug
	if !c.here {
		c.mu.Unlock()
		return nil // QEMU takes it for cancelled
	}
	ctx, cancel := context.WithCancel(parent)
	c.transfers[id] = cancel
	c.mu.Unlock()
	return c.queue(endpoint, func() {
		do(ctx)
		c.mu.Lock()
		delete(c.transfers, id)
		c.mu.Unlock()
		cancel()
	})
}

func (c *conn) cancelTransfer(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.transfers[id]; cancel != nil {
		cancel()
	}
}

func (c *conn) cancelAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.transfers {
		cancel()
	}
}

// status is what an error is to QEMU. A device that is gone gets unplugged, and has no status.
func (c *conn) status(err error) (status byte, gone bool) {
	switch {
	case err == nil:
		return statusSuccess, false
	case errors.Is(err, ErrGone):
		c.server.gone(c)
		return 0, true
	case errors.Is(err, ErrStall):
		return statusStall, false
	case errors.Is(err, context.Canceled):
		return statusCancelled, false
	}
	return statusIOError, false
}

// reply answers a transfer, unless the device is gone by now.
func (c *conn) reply(packets ...packet) {
	c.mu.Lock()
	here := c.here
	c.mu.Unlock()
	if here {
		c.send(packets...)
	}
}

// request is a control transfer that QEMU has packets of its own for.
func (c *conn) request(ctx context.Context, s Setup) (in []byte, status byte, gone bool) {
	err := ctx.Err()
	if err == nil {
		in, err = c.server.Device.Control(ctx, s, nil)
	}
	status, gone = c.status(err)
	return in, status, gone
}

// configuration sets a configuration. QEMU learns what it consists of before it hears that it is set.
func (c *conn) configuration(ctx context.Context, p packet) {
	_, status, gone := c.request(ctx, Setup{Request: reqSetConfiguration, Value: uint16(p.head[0])})
	if gone {
		return
	}
	c.tables()
	c.reply(packet{typ: typeConfigurationStatus, id: p.id, head: []byte{status, p.head[0]}})
}

func (c *conn) tables() {
	active := c.server.Device.Active()
	c.reply(interfaceInfo(active), epInfo(active))
}

// setting gets the configuration, or gets or sets an interface's alternate setting.
func (c *conn) setting(ctx context.Context, p packet) {
	value := func(in []byte) byte {
		if len(in) == 0 {
			return 0
		}
		return in[0]
	}
	switch p.typ {
	case typeGetConfiguration:
		in, status, gone := c.request(ctx, Setup{RequestType: 0x80, Request: reqGetConfiguration, Length: 1})
		if !gone {
			c.reply(packet{typ: typeConfigurationStatus, id: p.id, head: []byte{status, value(in)}})
		}
	case typeGetAltSetting:
		in, status, gone := c.request(ctx, Setup{RequestType: 0x81, Request: reqGetInterface, Index: uint16(p.head[0]), Length: 1})
		if !gone {
			c.reply(packet{typ: typeAltSettingStatus, id: p.id, head: []byte{status, p.head[0], value(in)}})
		}
	case typeSetAltSetting:
		_, status, gone := c.request(ctx, Setup{RequestType: 0x01, Request: reqSetInterface, Index: uint16(p.head[0]), Value: uint16(p.head[1])})
		if !gone {
			c.tables()
			c.reply(packet{typ: typeAltSettingStatus, id: p.id, head: []byte{status, p.head[0], p.head[1]}})
		}
	}
}

// control answers a control transfer: the same header with status and length, and the data.
func (c *conn) control(ctx context.Context, p packet) {
	s := Setup{p.head[2], p.head[1], binary.LittleEndian.Uint16(p.head[4:]), binary.LittleEndian.Uint16(p.head[6:]), binary.LittleEndian.Uint16(p.head[8:])}
	var in []byte
	err := ctx.Err()
	if err == nil {
		in, err = c.server.Device.Control(ctx, s, p.data)
	}
	status, gone := c.status(err)
	if gone {
		return
	}
	h := append([]byte(nil), p.head...)
	h[3] = status
	if s.RequestType&0x80 != 0 {
		in = in[:min(len(in), int(s.Length))]
		binary.LittleEndian.PutUint16(h[8:], uint16(len(in)))
	} else {
		in = nil
		if status != statusSuccess {
			binary.LittleEndian.PutUint16(h[8:], 0)
		}
	}
	c.reply(packet{typ: typeControlPacket, id: p.id, head: h, data: in})
}

// bulk answers a bulk transfer, or one to an interrupt output.
func (c *conn) bulk(ctx context.Context, p packet) {
	n := len(p.data)
	if p.typ == typeBulkPacket {
		n = p.bulkLength()
	}
	var in []byte
	err := ctx.Err()
	if err == nil {
		in, err = c.server.Device.Bulk(ctx, p.head[0], p.data, n)
	}
	status, gone := c.status(err)
	if gone {
		return
	}
	if p.head[0]&0x80 != 0 {
		if len(in) > n {
			in, status = in[:n], statusBabble
		}
		n = len(in)
	} else {
		in = nil
		if status != statusSuccess {
			n = 0
		}
	}
	h := append([]byte(nil), p.head...)
	h[1] = status
	binary.LittleEndian.PutUint16(h[2:], uint16(n))
	if p.typ == typeBulkPacket {
		binary.LittleEndian.PutUint16(h[8:], uint16(n>>16))
	}
	c.reply(packet{typ: p.typ, id: p.id, head: h, data: in})
}

// startInterrupts begins to send what an interrupt input says, as it says it.
func (c *conn) startInterrupts(p packet) {
	endpoint := p.head[0]
	c.send(packet{typ: typeInterruptReceivingStatus, id: p.id, head: []byte{statusSuccess, endpoint}})
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.here || c.interrupts[endpoint] != nil {
		return
	}
	ctx, stop := context.WithCancel(c.plug)
	c.interrupts[endpoint] = stop
	c.wg.Go(func() {
		for id := uint64(0); ; id++ {
			in, err := c.server.Device.Interrupt(ctx, endpoint)
			if ctx.Err() != nil {
				return
			}
			if status, gone := c.status(err); gone || status != statusSuccess {
				c.mu.Lock()
				if ctx.Err() == nil {
					delete(c.interrupts, endpoint) // QEMU may begin again
				}
				c.mu.Unlock()
				if !gone {
					c.reply(packet{typ: typeInterruptReceivingStatus, head: []byte{status, endpoint}})
				}
				return
			}
			h := binary.LittleEndian.AppendUint16([]byte{endpoint, statusSuccess}, uint16(len(in)))
			c.reply(packet{typ: typeInterruptPacket, id: id, head: h, data: in})
		}
	})
}

func (c *conn) stopInterrupts(p packet) {
	c.mu.Lock()
	if stop := c.interrupts[p.head[0]]; stop != nil {
		stop()
		delete(c.interrupts, p.head[0])
	}
	c.mu.Unlock()
	c.send(packet{typ: typeInterruptReceivingStatus, id: p.id, head: []byte{statusSuccess, p.head[0]}})
}
