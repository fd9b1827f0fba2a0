package bundle

import "fmt"

const readmeBytes = 8192

// readme returns README.txt: how to check the disc with stock tools, with its own block numbers
// (docs/format.md, section 6). The text of profile 1 never changes. Lines that begin with four spaces and a
// dollar sign are commands; a test runs them word for word.
func readme(id identity, g Geometry) []byte {
	text := fmt.Sprintf(readmeText, id.channel, id.sequence, g.ImageBlocks(), g.SealA(), sealJSONBlocks, g.SealA()+sealJSONBlocks)
	return padNewlines([]byte(text), readmeBytes)
}

const readmeText = `SALLYPORT BUNDLE, CHANNEL %[1]s, SEQUENCE %[2]d

This disc carries files across an air gap. The files are at its root, MANIFEST.json
lists them, SHA256SUMS has their digests. Believe nothing on it, nor this text, before
the signatures in its seal are good: check it with sallyport verify, or by hand
with stock tools as below (bash, dd, minisign, gpgv, veritysetup, xorriso, sha256sum).

Begin in an empty folder that holds only the public keys of the people whose
signatures you expect: NAME.pub for each key of minisign, NAME.gpg for each of OpenPGP
(gpg --export NAME > NAME.gpg). Get the keys another way than this disc.
Lines that begin with a dollar sign are commands.

1. Copy the disc, and from here on look only at the copy (it has %[3]d blocks of
   2,048 bytes). For a disc in /dev/sr0:
       dd if=/dev/sr0 of=disc.img bs=2048 count=%[3]d

2. Cut out the seal and its eight signature slots. An empty slot is all newlines.
    $ dd if=disc.img of=SEAL.json bs=2048 skip=%[4]d count=%[5]d status=none
    $ for i in 0 1 2 3 4 5 6 7; do dd if=disc.img of=slot.$i bs=2048 skip=$((%[6]d + i)) count=1 status=none; done

3. Who signed it? Each filled slot must be by somebody you know, and enough people,
   each counted once, must have signed. "nobody" means: stop, the disc is not to be used.
    $ for s in slot.?; do grep -q . $s || continue; by=nobody; for k in *.pub *.gpg; do minisign -V -q -p $k -m SEAL.json -x $s >/dev/null 2>&1 && by=$k; gpgv --keyring ./$k $s SEAL.json >/dev/null 2>&1 && by=$k; done; echo "$s is signed by $by"; done

4. Read the seal: is it your channel, your station, the sequence you expect, not expired?
    $ tr -s '\n' < SEAL.json

5. Every block of the data against the root hash that was signed.
    $ v() { sed -n "s/.*\"$1\":\"\{0,1\}\([0-9a-f]*\).*/\1/p" SEAL.json; }
    $ veritysetup verify disc.img disc.img $(v root) --no-superblock --hash=sha256 --data-block-size=2048 --hash-block-size=2048 --data-blocks=$(v data_blocks) --salt=$(v salt) --hash-offset=$((($(v tree_lba) + 1) * 2048))

6. Only now take the files out, into the folder payload (as root, a loop mount with
   -t iso9660 -o ro,nosuid,nodev,noexec does as well), and compare them with the manifest.
    $ xorriso -osirrox on -indev disc.img -extract / payload
    $ echo "$(v bundle_id)  payload/MANIFEST.json" | sha256sum -c
    $ cd payload && sha256sum -c --quiet SHA256SUMS

If each command ended without an error, the folder holds what was sealed: the payload,
this README.txt, MANIFEST.json and SHA256SUMS. What stock tools don't tell you, and
sallyport verify does: whether this bundle is older than one you had, whether bytes
hide outside the parts above, and whether a name in it is made to deceive.
`
