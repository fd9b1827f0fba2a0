package main

import (
	"io"
	"os"

	"sallyport/bundle"
	"sallyport/scan"
)

type scanCmd struct {
	Source    string `arg:"" help:"The directory, image file or device to look at." type:"path"`
	CaseClash bool   `help:"Let names pass that differ only in case."`
}

func (c *scanCmd) Help() string {
	return `Names that could deceive or that other systems can't hold, devices, links that lead out, and limits; also what
you may not read (unreadable). Nothing is changed. prepare makes the same check; --leave-out there leaves out what this
lists, except what may not be read: there it stops.

Of an image file or a device, a stick as /dev/sda or /dev/sg1: partitions, what lies beside them, and the files of FAT
file systems, all read in a process without rights and without the kernel's drivers. Nothing is mounted or written.

Examples: sallyport scan sources
          sallyport scan /dev/sg1`
}

type scanResult struct {
	Report *scan.Report `json:"report"`
}

func (r *scanResult) text(w io.Writer) { _ = r.Report.WriteText(w) }

func (c *scanCmd) run(e *env) (result, error) {
	if info, err := os.Stat(c.Source); err == nil && !info.IsDir() {
		r, err := e.examineMedium(c.Source, scan.Limits{AllowCaseClash: c.CaseClash})
		if err != nil {
			return nil, err
		}
		return r, about(c.Source, r.err())
	}
	if err := checkDir(c.Source); err != nil {
		return nil, err
	}
	src, err := bundle.OpenDir(c.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	report, err := scan.Check(e.ctx, src, scan.Limits{AllowCaseClash: c.CaseClash, OpenFiles: true})
	if err != nil {
		return nil, about(c.Source, err)
	}
	return &scanResult{report}, about(c.Source, report.Err())
}
