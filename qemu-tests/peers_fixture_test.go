package qemutests

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sallyport/burn/drivesim"
	"sallyport/burn/mmc"
)

// peerScript looks at a disc, burns $ISO on it with the command that it is given, and looks at it again. What it says
// is in sections. The tray goes out and in before the disc is read: the kernel has nothing of it then, and asks for the
// size, if it had been asked before whether the disc is new. The read asks for no block behind the image: behind a CD's track that was written at once are two that can't be read.
const peerScript = `
dev=$1; shift
at() { echo "$SECONDS s: $1" >&2; }
ask() { perl -e 'use Fcntl; sysopen(F, $ARGV[0], O_RDONLY|O_NONBLOCK) or die "$!"; ioctl(F, hex $ARGV[1], $ARGV[2])' $dev "$@"; }
look() {
	at "looking $1"
	if [ $MEDIUM != CD-R ]; then echo "=$1 mediainfo"; dvd+rw-mediainfo $dev 2>&1; fi
	echo "=$1 toc"; xorriso -outdev $dev -toc -tell_media_space 2>&1
}
ask 5325 2147483647 # CDROM_MEDIA_CHANGED: the kernel keeps that the disc is new until somebody asks
look before
at burning
echo "=burn"; "$@" 2>&1 < /dev/null | tr '\r' '\n' | tail -n 60
echo "=status ${PIPESTATUS[0]}"
at reloading
ask 5309 0; ask 5319 0 # CDROMEJECT, CDROMCLOSETRAY
for i in $(seq 20); do [ "$(blockdev --getsize64 $dev 2>/dev/null || echo 0)" -ge $SIZE ] && break; sleep 0.1; done
look after
at reading
echo "=sum"; dd if=$dev bs=32k iflag=direct,count_bytes count=$SIZE | sha256sum
at end
`

// peerReport is what the script said, by section.
type peerReport map[string]string

func readPeerReport(out string) peerReport {
	r := make(peerReport)
	for i, part := range strings.Split("\n"+out, "\n=") {
		if i > 0 {
			name, text, _ := strings.Cut(part, "\n")
			if status, ok := strings.CutPrefix(name, "status "); ok {
				name, text = "status", status
			}
			r[name] = text
		}
	}
	return r
}

// field is what stands behind a name in a section, the last time.
func (r peerReport) field(section, pattern string) string {
	found := regexp.MustCompile(`(?m)^ *`+pattern).FindAllStringSubmatch(r[section], -1)
	if len(found) == 0 {
		return "(nothing)"
	}
	return strings.TrimSpace(found[len(found)-1][1])
}

// agrees holds what dvd+rw-mediainfo and xorriso say of a disc against the recorder's state.
func (r peerReport) agrees(t *testing.T, when string, st drivesim.Status) {
	t.Helper()
	hold := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s the burn: %s is %q, by the recorder's state %q", when, what, got, want)
		}
	}
	toc := when + " toc"
	status := map[string]string{"blank": "is blank", "incomplete": "is written , is appendable", "complete": "is written , is closed"}[st.Disc]
	profile := map[mmc.Profile]string{mmc.DVDR: "DVD-R sequential recording", mmc.DVDPlusR: "DVD+R", mmc.CDR: "CD-R", mmc.BDR: "BD-R sequential recording"}[st.Profile]
	hold("Media current", r.field(toc, `Media current: (.*)`), profile)
	hold("Media status", r.field(toc, `Media status : (.*)`), status)
	hold("the sessions of Media summary", r.field(toc, `Media summary: (\d+) sessions?,`), strconv.Itoa(st.Sessions))
	if st.Disc != "complete" {
		hold("Media space", r.field(toc, `Media space  : (\d+)s`), fmt.Sprint(st.Free))
	}
	if st.Profile == mmc.CDR {
		return // to dvd+rw-mediainfo that is none of its discs
	}
	info := when + " mediainfo"
	sessions := st.Sessions
	if st.Disc != "complete" {
		sessions++ // the open one
	}
	hold("Mounted Media", r.field(info, `Mounted Media: +([0-9A-F]+)h`), fmt.Sprintf("%X", uint16(st.Profile)))
	hold("Disc status", r.field(info, `Disc status: +(.*)`), map[string]string{"blank": "blank", "incomplete": "appendable", "complete": "complete"}[st.Disc])
	hold("Number of Sessions", r.field(info, `Number of Sessions: +(\d+)`), strconv.Itoa(sessions))
	hold("Free Blocks", r.field(info, `Free Blocks: +(\d+)\*2KB`), fmt.Sprint(st.Free))
}
