package main

import (
	"io"

	"sallyport/bundle"
	"sallyport/scan"
)

type scanCmd struct {
	Source    string `arg:"" help:"The directory to look at." type:"path"`
	CaseClash bool   `help:"Let names pass that differ only in case."`
}

func (c *scanCmd) Help() string {
	return `Names that could deceive or that other systems can't hold, devices, links that lead out, and limits; also what
you may not read (unreadable). Nothing is changed. prepare makes the same check; --leave-out there leaves out what this
lists, except what may not be read: there it stops.

Example: sallyport scan sources`
}

type scanResult struct {
	Report *scan.Report `json:"report"`
}

func (r *scanResult) text(w io.Writer) { _ = r.Report.WriteText(w) }

func (c *scanCmd) run(e *env) (result, error) {
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
