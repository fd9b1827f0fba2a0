package image

import (
	"strings"
	"testing"
)

// order is a closure as a line; what is optional has a question mark.
func order(modules []Module) string {
	var words []string
	for _, m := range modules {
		if m.Optional {
			m.Name += "?"
		}
		words = append(words, m.Name)
	}
	return strings.Join(words, " ")
}

func TestClosure(t *testing.T) {
	k, err := readKernel(t, debOf(t, kernelEntries("kernel/lib/in-built.ko\n",
		mod("scsi-common"), mod("scsi_mod", "depends=scsi_common"), mod("cdrom"), mod("sr_mod", "depends=cdrom,scsi_mod"),
		mod("crc-a", "alias=crc", "alias=other*"), mod("crc-b", "alias=crc", "depends=base"), mod("base"),
		mod("ext", "depends=base", "softdep=pre: crc nothing post: late"), mod("late", "depends=ext"),
		mod("needs-builtin", "depends=in-built"), mod("lost", "depends=absent"),
		mod("round-a", "depends=round_b"), mod("round-b", "depends=round_a"),
		mod("soft-a", "softdep=pre: soft_b"), mod("soft-b", "softdep=pre: soft_a"),
		mod("user", "depends=crc_b"),
	)...))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ wanted, want string }{
		{"sr-mod", "cdrom scsi_common scsi_mod sr_mod"},
		{"scsi_mod sr_mod cdrom", "scsi_common scsi_mod cdrom sr_mod"},
		{"ext", "crc_a? base crc_b? ext late?"},
		{"ext user", "crc_a? base crc_b ext late? user"},
		{"crc", "crc_a base crc_b"},
		{"needs_builtin", "needs_builtin"},
		{"in_built", ""},
		{"soft_a", "soft_b? soft_a"},
	} {
		closure, err := k.Closure(strings.Fields(tt.wanted)...)
		if got := order(closure); err != nil || got != tt.want {
			t.Errorf("the closure of %s is %q, want %q, %v", tt.wanted, got, tt.want, err)
		}
	}
	for _, tt := range []struct{ wanted, want string }{
		{"sr_mod nothing", `kernel 6.1.0-test has no module "nothing"`},
		{"lost", `the module lost needs "absent", which kernel 6.1.0-test doesn't have`},
		{"round_a", "modules need each other: round_a needs round_b needs round_a"},
		{"otherwise", "has no module"},
	} {
		if _, err := k.Closure(strings.Fields(tt.wanted)...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the closure of %s: %v, want %q", tt.wanted, err, tt.want)
		}
	}
}
