"""Prints what the kernel shows of images.

Usage: kerneltree.py LIST, where LIST has a line of JSON for each image: {"path", "kind", "options", "block", "fill"}. With
"kind" it is mounted as that, else its partitions are listed. With "fill" it is first mounted for writing and a tree put
into it. A line of JSON is printed for each: {"refused"}, {"tree"} or {"parts"}. Names are hexadecimal, since on a medium
they can have any byte.
"""
import ctypes
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
import time

READ = 4 << 20    # bytes of a file that are hashed
ENTRIES = 30000   # what is listed of an image; a damaged directory can have itself in it
DEPTH = 100


libc = ctypes.CDLL(None, use_errno=True)


def mount(device, top, kind, flags, options):
    """mount(2), without the seconds that mount(8) takes to start from the host's files. It returns what is wrong."""
    if libc.mount(device.encode(), top, kind.encode(), ctypes.c_ulong(flags), options.encode()):
        return os.strerror(ctypes.get_errno())
    return ""


def umount(top):
    if libc.umount2(top, 0):
        raise OSError(ctypes.get_errno(), "umount")


MS_RDONLY = 1
LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C01, 0x4C82
READ_ONLY, PARTSCAN = 1, 8


def loop(path, block, flags):
    """Returns a loop device, as its node and an open file."""
    with open("/dev/loop-control", "rb", buffering=0) as f:
        number = fcntl.ioctl(f, LOOP_CTL_GET_FREE)
    node = "/dev/loop%d" % number
    device = open(node, "rb" if flags & READ_ONLY else "r+b", buffering=0)
    with open(path, "rb" if flags & READ_ONLY else "r+b", buffering=0) as f:
        config = struct.pack("=II52xI176x64x", f.fileno(), block, flags)
        assert len(config) == 304
        fcntl.ioctl(device, LOOP_CONFIGURE, config)
    return node, device


def entry(path, name):
    s = os.lstat(path)
    e = {"name": name.hex(), "mtime": s.st_mtime_ns // 10**9, "perm": stat.S_IMODE(s.st_mode)}
    if stat.S_ISDIR(s.st_mode):
        e["kind"] = "dir"
    elif stat.S_ISLNK(s.st_mode):
        e["kind"], e["target"] = "link", os.readlink(path).hex()
    elif stat.S_ISREG(s.st_mode):
        e["kind"], e["size"] = "file", s.st_size
        h, left = hashlib.sha256(), READ
        try:
            with open(path, "rb", buffering=0) as f:
                while left > 0 and (b := f.read(min(left, 1 << 20))):
                    h.update(b)
                    left -= len(b)
            e["sha256"] = h.hexdigest()
        except OSError as err:
            e["error"] = err.strerror
    else:
        e["kind"] = "other"
    return e


def tree(top):
    out, todo = [], [(b"", 0)]
    while todo:
        where, depth = todo.pop()
        try:
            names = os.listdir(os.path.join(top, where))
        except OSError as err:
            out.append({"name": where.hex(), "kind": "dir", "error": err.strerror})
            continue
        for name in names:
            name = os.path.join(where, name)
            if len(out) == ENTRIES:
                return out
            try:
                e = entry(os.path.join(top, name), name)
            except OSError as err:
                e = {"name": name.hex(), "kind": "unknown", "error": err.strerror}
            out.append(e)
            if e["kind"] == "dir" and depth < DEPTH:
                todo.append((name, depth + 1))
    return out


NAMES = [
    "UPPER.TXT", "lower.txt", "Mixed.Txt", "UPPER.low", "lower.EXT", "no_extension", "two.dots.tar.gz", "a name with spaces.txt", ".hidden", "ends exactly13",
    "\u00e4 \u00f6 \u00fc \u00df.txt", "e\u0301 decomposed", "\u65e5\u672c\u8a9e\u306e\u540d\u524d.txt", "\U0001f980 of two surrogates", "n" * 200 + ".long", "\u0436" * 120,
    "sub/file", "sub/deeper/and deeper/still/file.txt", "A" * 8 + ".BBB", "caf\u00e9", "CAF\u00c9.TXT", "plus+comma,semi;equals=[x]",
]


def fill(top, kind):
    """Writes files of all sizes about a cluster, in pieces that end up apart, and removes some."""
    when = 1709251198  # 2024-02-29T23:59:58Z
    block = os.statvfs(top).f_bsize
    sizes = [0, 1, block - 1, block, block + 1, 3 * block + 7, 70 * block + 5]
    for i, name in enumerate(NAMES):
        p = os.path.join(top, os.fsencode(name))
        os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p, "wb") as f:
            f.write(os.urandom(sizes[i % len(sizes)]))
    many = os.path.join(top, b"many")
    os.mkdir(many)
    for i in range(300):
        with open(os.path.join(many, b"file number %04d.dat" % i), "wb") as f:
            f.write(b"x" * (i % 5))
    for i in range(0, 300, 3):
        os.remove(os.path.join(many, b"file number %04d.dat" % i))
    with open(os.path.join(top, b"apart 1"), "wb") as a, open(os.path.join(top, b"apart 2"), "wb") as b:
        for i in range(12):
            for f in (a, b):
                f.write(os.urandom(block))
                f.flush()
                os.fsync(f.fileno())
    with open(os.path.join(top, b"hole"), "wb") as f:
        f.truncate(40 * block)
        f.seek(20 * block)
        f.write(b"in the middle")
    with open(os.path.join(top, b"shortened"), "wb") as f:
        f.write(os.urandom(9 * block))
        f.truncate(2 * block + 3)
    os.rename(os.path.join(top, b"sub/file"), os.path.join(top, b"sub/renamed with a longer name"))
    if kind.startswith("ext"):
        for n in (1, 59, 60, 200, block - 24):
            os.symlink(b"t" * n, os.path.join(top, b"link %d" % n))
        os.link(os.path.join(top, b"apart 1"), os.path.join(top, b"hard link"))
        os.mkfifo(os.path.join(top, b"fifo"))
        os.chmod(os.path.join(top, b"hole"), 0o4751)
        with open(os.path.join(top, b"extents"), "wb") as f:
            for i in range(0, 800, 2):
                f.seek(i * block)
                f.write(b"%d" % i)
    for where, dirs, files in os.walk(top, topdown=False):
        for name in sorted(files) + sorted(dirs):
            when += 12345
            os.utime(os.path.join(where, name), (when, when), follow_symlinks=False)


def parts(device):
    base, out = "/sys/block/" + os.path.basename(device), []
    for name in os.listdir(base):
        if os.path.exists(os.path.join(base, name, "partition")):
            number, start, size = (int(open(os.path.join(base, name, f)).read()) for f in ("partition", "start", "size"))
            out.append([number, start * 512, size * 512])
    return sorted(out)


def show(image):
    kind, top = image["kind"], b"/tmp/tree"
    os.makedirs(top, exist_ok=True)
    writable = bool(image["fill"])
    node, device = loop(image["path"], image["block"] or 512, (0 if writable else READ_ONLY) | (0 if kind else PARTSCAN))
    try:
        if not kind:
            return {"parts": parts(node)}
        if writable:
            wrong = mount(node, top, kind, 0, image["options"])
            if wrong:
                return {"refused": wrong, "broken": True}
            try:
                fill(top, kind)
            finally:
                umount(top)
        wrong = mount(node, top, kind, MS_RDONLY, image["options"])
        if wrong:
            return {"refused": wrong}
        try:
            return {"tree": tree(top)}
        finally:
            umount(top)
    finally:
        fcntl.ioctl(device, LOOP_CLR_FD)
        device.close()


with open("/dev/kmsg", "w") as kmsg, open(sys.argv[1]) as f:
    for line in f:
        image, begun = json.loads(line), time.monotonic()
        kmsg.write("showing %s\n" % os.path.basename(image["path"]))
        kmsg.flush()
        print(json.dumps(show(image) | {"took": time.monotonic() - begun}), flush=True)
