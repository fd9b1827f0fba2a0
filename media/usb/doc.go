// Package usb decides which USB devices come in, and lets them in.
//
// The kernel binds a driver to whatever a device claims to be. So on a station no device gets one by itself: each comes
// unauthorised, [Parse] reads all that it says of itself, [Device.Classes] says what that amounts to, and a [Policy]
// whether it may come in as that. A [Gate] then authorises the device, makes sure that it is still the same, gives its
// one interface to the driver, and looks at what answers: a stick is one disk, a recorder one optical drive. sd and
// sr are not bound to them, so that nothing in the kernel reads the medium; it is reached through its sg node.
//
// What the gate goes by is what the kernel goes by: the descriptors as the kernel read and kept them when the device
// was enumerated. A device that answers otherwise later gains nothing, since nobody asks it any more. For it to be
// asked again it has to be enumerated again, and then it comes as a new device, unauthorised. A gate's [Session] has the
// device's directory in sysfs open: it can't be made to authorise another one that has come to its port.
//
// It reads and writes sysfs alone, and opens no device. Calls into the kernel can take as long as the kernel waits for
// a device, and can't be broken off; [Gate.Admit] and [Gate.Watch] go on without them. The rules of the kernel's that it
// rests on are in Documentation/usb/authorization.rst.
package usb
