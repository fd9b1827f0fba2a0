package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"sallyport/media"
)

type driveListCmd struct{}

func (c *driveListCmd) Help() string {
	return `No drive is asked for that: sallyport drive info does.`
}

type driveListResult struct {
	Drives []listedDrive `json:"drives"`
}

type listedDrive struct {
	Device  string `json:"device"`
	Generic string `json:"generic,omitempty"`
	Vendor  string `json:"vendor"`
	Model   string `json:"model"`
	Rev     string `json:"rev"`
	Bus     string `json:"bus"`
	USB     bool   `json:"usb"`
}

func (r *driveListResult) text(w io.Writer) {
	if len(r.Drives) == 0 {
		fmt.Fprintln(w, "no optical drive found; sim:DIR is a simulated one")
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tGENERIC\tDRIVE\tREVISION\tBUS")
	for _, d := range r.Drives {
		generic := d.Generic
		if generic == "" {
			generic = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s %s\t%s\t%s\n", printable(d.Device), printable(generic), printable(d.Vendor), printable(d.Model), printable(d.Rev), printable(d.Bus))
	}
	table.Flush()
}

func (c *driveListCmd) run(e *env) (result, error) {
	list, err := media.Recorders()
	if err != nil {
		return nil, err
	}
	r := &driveListResult{Drives: []listedDrive{}}
	for _, d := range list {
		r.Drives = append(r.Drives, listedDrive(d))
	}
	return r, nil
}
