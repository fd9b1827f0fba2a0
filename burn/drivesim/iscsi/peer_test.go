package iscsi

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/media/scsi"
)

// peer runs a program that somebody else wrote, and wants it to succeed.
func peer(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestLibiscsi(t *testing.T) {
	s := serve(t, newDevice(), false)
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"iscsi-ls", []string{"-s", "iscsi://" + s.addr}, []string{"Target:" + testName + " Portal:" + s.addr + ",1\n", "Lun:1    Type:DIRECT_ACCESS (Size:15M)"}},
		{"iscsi-inq", []string{s.url()}, []string{"Peripheral Qualifier:CONNECTED", "Vendor:SALLY", "Product:TEST DISK", "Revision:1.0"}},
		{"iscsi-inq", []string{"-e", "1", "-c", "131", s.url()}, []string{"SALLYDSK"}},
		{"iscsi-readcapacity16", []string{s.url()}, []string{"RETURNED LOGICAL BLOCK ADDRESS:8191", "LOGICAL BLOCK LENGTH IN BYTES:2048", "Total size:16777216"}},
	} {
		out := peer(t, tt.name, tt.args...)
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s %v: no %q in\n%s", tt.name, tt.args, want, out)
			}
		}
	}
	if f := s.failures(); f != "" {
		t.Error(f)
	}
}

// TestConformance runs those of libiscsi's own tests of targets that are about
// iSCSI and about moving data. Not those of wrong DataSN, where it wants the
// command to fail and not, as here, the connection; of writes of less data than
// blocks, which it wants to succeed; and of task management, as it takes all
// blocks for 512 bytes.
func TestConformance(t *testing.T) {
	for _, test := range []string{
		"ALL.iSCSIcmdsn.iSCSICmdSnTooHigh", "ALL.iSCSIcmdsn.iSCSICmdSnTooLow",
		"ALL.iSCSIResiduals.Read10Invalid", "ALL.iSCSIResiduals.Read10Residuals", "ALL.iSCSIResiduals.Read12Residuals", "ALL.iSCSIResiduals.Read16Residuals",
		"ALL.Read10.Simple", "ALL.Write10.Simple", "ALL.Read12.Simple", "ALL.Write12.Simple", "ALL.Read10.Async",
	} {
		t.Run(test, func(t *testing.T) {
			s := serve(t, newDevice(), false)
			out := peer(t, "iscsi-test-cu", "--dataloss", "--allow-sanitize", "-V", "--test="+test, s.url())
			if strings.Contains(out, "FAILED\n") || !strings.Contains(out, "passed") {
				t.Error(out)
			}
		})
	}
}

// QEMU writes an image and reads it back; the device gets each command's data
// in one piece.
func TestQEMU(t *testing.T) {
	v := newDevice()
	longest := 0
	v.hook = func(cdb []byte, d scsi.Data) (int, error, bool) {
		longest = max(longest, len(d.Out))
		return 0, nil, false
	}
	s := serve(t, v, true)
	image := filepath.Join(t.TempDir(), "image")
	want := make([]byte, deviceBlocks*2048)
	rand.Read(want)
	if err := os.WriteFile(image, want, 0o600); err != nil {
		t.Fatal(err)
	}
	peer(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, s.url())
	if err := <-s.done; err != nil { // served once
		t.Error(err)
	}
	s.done <- nil
	if !bytes.Equal(v.blocks, want) {
		t.Error("other data arrived")
	}
	if longest <= maxSegment {
		t.Errorf("no write had more than %d bytes: R2T wasn't used more than once", longest)
	}
	s = serve(t, v, false)
	peer(t, "qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", "if="+s.url(), "of="+image)
	got, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("other data was read")
	}
}
