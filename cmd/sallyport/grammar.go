package main

import (
	"runtime/debug"

	"github.com/alecthomas/kong"
)

// grammar is the command line.
type grammar struct {
	JSON     bool             `help:"Print one JSON object instead of text." name:"json"`
	LogLevel string           `help:"What to say on stderr: info, or error for errors only." enum:"info,error" default:"info"`
	Version  kong.VersionFlag `help:"Print the version and stop."`

	Demo    demoCmd    `cmd:"" help:"Show a whole transfer on simulated hardware with throw-away keys."`
	Key     keyCmd     `cmd:"" help:"Make and show keys."`
	Trust   trustCmd   `cmd:"" help:"Make, change, sign and show a trust root."`
	Prepare prepareCmd `cmd:"" help:"Seal a directory into a bundle image."`
	Plan    planCmd    `cmd:"" help:"Make the seal of a bundle without its image, to be signed first."`
	Sign    signCmd    `cmd:"" help:"Look at a bundle and add a signature."`
	Inspect inspectCmd `cmd:"" help:"Show what a bundle says of itself, believing nothing."`
	Burn    burnCmd    `cmd:"" help:"Burn a bundle, finalise, reload, and read it back."`
	Write   writeCmd   `cmd:"" help:"Write a bundle to an enrolled stick, and read it back."`
	Verify  verifyCmd  `cmd:"" help:"Make every check of an import, and import nothing."`
	Import  importCmd  `cmd:"" help:"Verify a bundle, let its files in, and log that."`
	Deliver deliverCmd `cmd:"" help:"Copy a release to an enrolled stick, and read it back."`
	Drive   driveCmd   `cmd:"" help:"Show optical drives, or serve a simulated one."`
	Media   mediaCmd   `cmd:"" help:"Show what is plugged in, and watch it come and go."`
	Mount   mountCmd   `cmd:"" help:"Verify a bundle and show its files, read-only, each block checked."`
	Umount  umountCmd  `cmd:"" help:"End a mount."`
	Repair  repairCmd  `cmd:"" help:"Write a damaged bundle as it was made to a new image file."`
	Scan    scanCmd    `cmd:"" help:"Say what of a directory can't be carried, and why."`
	Format  formatCmd  `cmd:"" help:"Wipe a stick, test its capacity, format it, and enrol it."`
	Log     logCmd     `cmd:"" help:"Show and verify the log."`
	Image   imageCmd   `cmd:"" help:"Build the appliance."`
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "sallyport (devel)"
	}
	return "sallyport " + info.Main.Version
}
