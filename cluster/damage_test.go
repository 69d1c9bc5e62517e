package cluster

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// filesOf returns the files of a directory but for those that only lock it.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && e.Name() != "LOCK" {
			files[e.Name()] = string(b)
		}
	}
	return files
}

// copyStore copies the files of a directory but for the zeros at their end, which are not on the disk either.
func copyStore(t *testing.T, to, from string) {
	t.Helper()
	check(t, os.MkdirAll(to, 0o700))
	for name, content := range filesOf(t, from) {
		path := filepath.Join(to, name)
		check(t, os.WriteFile(path, []byte(strings.TrimRight(content, "\x00")), 0o600))
		check(t, os.Truncate(path, int64(len(content))))
	}
}

// crashed returns a directory with a table and a log, as a crash leaves it, of a store with so many devices.
func crashed(t *testing.T, devices int) string {
	t.Helper()
	dir, left := t.TempDir(), t.TempDir()
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	fill(t, s, devices)
	stop()
	s, stop = start(t, Config{Dir: dir, Node: testNode(0)})
	for i := range 20 {
		add(t, s, fmt.Sprint("late-", i), testKey(i))
	}
	copyStore(t, left, dir)
	stop()
	return left
}

// A store that was altered is refused with the name of the file, and not touched; or all of it is there.
func TestDamage(t *testing.T) {
	const devices = 400
	src := crashed(t, devices)
	ways := map[string]func(path string, b []byte) error{
		"emptied":     func(p string, _ []byte) error { return os.Truncate(p, 0) },
		"cut in half": func(p string, b []byte) error { return os.Truncate(p, int64(len(b)/2)) },
		"gone":        func(p string, _ []byte) error { return os.Remove(p) },
		"a directory": func(p string, _ []byte) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"flipped": func(p string, b []byte) error {
			last := len(strings.TrimRight(string(b), "\x00"))
			b[last/2] ^= 0x40
			return os.WriteFile(p, b, 0o600)
		},
	}
	// What nobody could tell: a log is gone whole.
	unseen := func(name, way string) bool {
		return strings.HasSuffix(name, ".mem") && (way == "gone" || way == "emptied")
	}
	// What Badger makes anew, as nothing that it holds matters here.
	spare := func(name string) bool { return strings.HasSuffix(name, ".vlog") || name == "DISCARD" }
	for name := range filesOf(t, src) {
		for way, do := range ways {
			if spare(name) && way != "flipped" && way != "a directory" {
				continue
			}
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "store")
				copyStore(t, dir, src)
				path := filepath.Join(dir, name)
				b, err := os.ReadFile(path)
				check(t, err)
				check(t, do(path, b))
				before := filesOf(t, dir)
				s, err := Open(Config{Dir: dir, Node: testNode(0), Log: quiet})
				if err == nil {
					if n := s.CountDevices(); n != devices+20 && !unseen(name, way) {
						t.Errorf("opened with %d devices of %d", n, devices+20)
					}
					check(t, s.Close())
					return
				}
				var damage *DamageError
				if !errors.As(err, &damage) || damage.File != name || strings.Contains(err.Error(), "\n") {
					t.Errorf("%T: %v", err, err)
				}
				if !maps.Equal(filesOf(t, dir), before) {
					t.Error("the store was changed")
				}
			})
		}
	}
}

// A log that ends in the middle of a transaction is what a crash leaves: the rest is there.
func TestTornLog(t *testing.T) {
	src := crashed(t, 200)
	logs, _ := filepath.Glob(filepath.Join(src, "*.mem"))
	if len(logs) != 1 {
		t.Fatal(logs)
	}
	b, err := os.ReadFile(logs[0])
	check(t, err)
	end := len(strings.TrimRight(string(b), "\x00"))
	for _, cut := range []int{1, 5, 100} {
		dir := filepath.Join(t.TempDir(), "store")
		copyStore(t, dir, src)
		torn := append([]byte(nil), b...)
		clear(torn[end-cut:])
		torn[end-cut] = 7
		check(t, os.WriteFile(filepath.Join(dir, filepath.Base(logs[0])), torn, 0o600))
		s := open(t, Config{Dir: dir, Node: testNode(0)})
		if n := s.CountDevices(); n != 219 {
			t.Errorf("%d devices with the last %d bytes lost, want 219", n, cut)
		}
		sound(t, s)
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("0123456789012345678901234567890123456789"), 3)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if end, _ := verifyLog(b); end > max(len(b), logHeader) {
			t.Errorf("end %d of %d bytes", end, len(b))
		}
	})
}

// A crash that cuts off the record which names a table that was made from a log loses nothing: the log is still there.
func TestTornManifest(t *testing.T) {
	dir, left := t.TempDir(), t.TempDir()
	_, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	stop()
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	fill(t, s, 50)
	before, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	check(t, err)
	copyStore(t, left, dir)
	stop() // makes a table of the log, and names it
	after, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	check(t, err)
	tables, _ := filepath.Glob(filepath.Join(dir, "*.sst"))
	for _, path := range tables {
		b, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(left, filepath.Base(path)), b, 0o600))
	}
	for _, cut := range []int{1, 4, len(after) - len(before) - 1} {
		torn := filepath.Join(t.TempDir(), "store")
		copyStore(t, torn, left)
		check(t, os.WriteFile(filepath.Join(torn, badger.ManifestFilename), after[:len(before)+cut], 0o600))
		s, stop := start(t, Config{Dir: torn, Node: testNode(0)})
		if n := s.CountDevices(); n != 50 {
			t.Errorf("record torn after %d bytes: %d devices, want 50", cut, n)
		}
		stop()
		logs, _ := filepath.Glob(filepath.Join(left, "*.mem"))
		lost := filepath.Join(t.TempDir(), "store")
		copyStore(t, lost, left)
		check(t, os.WriteFile(filepath.Join(lost, badger.ManifestFilename), after[:len(before)+cut], 0o600))
		for _, path := range logs {
			check(t, os.Remove(filepath.Join(lost, filepath.Base(path))))
		}
		var damage *DamageError
		if s, err := Open(Config{Dir: lost, Node: testNode(0), Log: quiet}); !errors.As(err, &damage) {
			t.Errorf("record torn after %d bytes, and no log: %v", cut, err)
			if err == nil {
				_ = s.Close()
			}
		}
	}
}
