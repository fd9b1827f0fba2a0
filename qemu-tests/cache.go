package qemutests

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cacheDir keeps what takes long to make: $SALLYPORT_CACHE, or sallyport in the user's cache directory. Files in it go
// by the digest of what they are made from, and take up their name when they are complete.
func cacheDir() (string, error) {
	dir := os.Getenv("SALLYPORT_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("set SALLYPORT_CACHE: %w", err)
		}
		dir = filepath.Join(user, "sallyport")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// cached returns the file that key and name stand for, and has build make it when it isn't there. Of several
// processes one makes it, and the others wait.
func cached(name string, key []byte, build func(out string) error) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, fmt.Sprintf("%s-%x", name, sha256.Sum256(key)))
	lock, err := os.OpenFile(filepath.Join(dir, "lock-"+name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return "", err
	}
	if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		now := time.Now()
		return file, errors.Join(err, os.Chtimes(file, now, now))
	}
	if err := prune(dir, name); err != nil {
		return "", err
	}
	tmp := file + ".new"
	if err := errors.Join(os.RemoveAll(tmp), build(tmp)); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return file, os.Rename(tmp, file)
}

// prune removes what nobody has used for a week.
func prune(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), name+"-") && time.Since(info.ModTime()) > 7*24*time.Hour {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
