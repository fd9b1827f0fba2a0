package main

import (
	"fmt"
	"maps"
	"slices"
)

// layers says, for each package by its path in the module, which packages of the module it may import.
type layers map[string][]string

// all in a row allows every package that has a row.
const all = "all"

var table = layers{
	"bundle/canonjson":    {},
	"bundle/iso9660":      {},
	"bundle/verity":       {},
	"bundle/trust":        {"bundle/canonjson"},
	"bundle":              {"bundle/canonjson", "bundle/iso9660", "bundle/verity", "bundle/trust"},
	"bundle/bench":        {"bundle/verity"},
	"bundle/importlog":    {"bundle", "bundle/canonjson", "bundle/trust"},
	"scan":                {},
	"media":               {"media/scsi", "media/usb"},
	"media/scsi":          {},
	"media/confined":      {},
	"media/carry":         {},
	"media/enrol":         {"bundle/canonjson", "bundle/trust"},
	"media/examine":       {"media/volume", "media/volume/exfat", "media/volume/ext", "media/volume/fat", "media/volume/part"},
	"media/format":        {},
	"media/sbc":           {"media/scsi"},
	"media/usb":           {},
	"media/volume":        {},
	"media/volume/part":   {"media/volume"},
	"media/volume/fat":    {"media/volume"},
	"media/volume/exfat":  {"media/volume"},
	"media/volume/ext":    {"media/volume"},
	"media/wipe":          {},
	"media/wipe/bench":    {"media/wipe"},
	"burn/mmc":            {"media/scsi"},
	"burn/drivesim":       {"burn/mmc", "media/scsi"},
	"burn/drivesim/iscsi": {"media/scsi"},
	"burn":                {"burn/mmc", "media/scsi"},
	"image":               {"bundle/iso9660"},
	"cmd/sallyport":       {all},
	"qemu-tests":          {"image", "qemu-tests/agent", "qemu-tests/usbredir"},
	"qemu-tests/agent":    {},

	"qemu-tests/agent/guest": {"qemu-tests/agent"},
	"qemu-tests/unpack":      {"image"},
	"qemu-tests/usbredir":    {},
}

// allows reports whether the package from may import the package to.
func (l layers) allows(from, to string) bool {
	row := l[from]
	if _, known := l[to]; known && slices.Contains(row, all) {
		return true
	}
	return slices.Contains(row, to)
}

// differences compares the program's table with the one drawn in document.
func differences(table, drawn layers, document string) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		row, ok := drawn[name]
		if !ok {
			found = append(found, fmt.Sprintf("%s: no row for %s, which the table in .ci/layers/table.go has", document, name))
			continue
		}
		for _, to := range table[name] {
			if !slices.Contains(row, to) {
				found = append(found, fmt.Sprintf("%s: the row of %s lacks %s, which .ci/layers/table.go allows", document, name, to))
			}
		}
		for _, to := range row {
			if !slices.Contains(table[name], to) {
				found = append(found, fmt.Sprintf("%s: the row of %s has %s, which .ci/layers/table.go does not allow", document, name, to))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(drawn)) {
		if _, ok := table[name]; !ok {
			found = append(found, fmt.Sprintf("%s: a row for %s, which the table in .ci/layers/table.go lacks", document, name))
		}
	}
	return found
}
