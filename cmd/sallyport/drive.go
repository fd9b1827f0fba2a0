package main

type driveCmd struct {
	Serve driveServeCmd `cmd:"" help:"Serve a simulated recorder over iSCSI, for QEMU and for tests."`
}
