package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// disk is a volume of 200 MB on which other things lie.
type disk struct{ free atomic.Uint64 }

func newDisk(free uint64) *disk {
	d := &disk{}
	d.free.Store(free)
	return d
}

func (d *disk) measure(string) (free, total uint64, err error) { return d.free.Load(), 200 << 20, nil }

// A store whose disk fills up refuses writes, keeps what it has, answers, and
// comes back by itself.
func TestReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(150 << 20)
		dir := t.TempDir()
		s, stop := start(t, Config{Dir: dir, Node: testNode(0), disk: d.measure})
		defer stop()
		ctx := context.Background()
		set := func(name string) error { return s.SetSettings(ctx, map[string][]byte{name: {1}}) }
		check(t, set("before"))
		delta := parts(t, storeState{replicaWith(t, 1)}, nil)

		d.free.Store(10 << 20)
		err := set("now") // nobody has looked since
		var full *ReadOnlyError
		if !errors.As(err, &full) || !errors.Is(err, ErrReadOnly) || full.Free != 10<<20 || full.Needed <= 10<<20 {
			t.Fatalf("write on a full disk: %v", err)
		}
		if err := set("again"); !errors.Is(err, ErrReadOnly) || !s.Room().ReadOnly {
			t.Fatalf("write on a full disk: %v, %+v", err, s.Room())
		}
		if _, err := s.Merge(delta[0]); !errors.Is(err, ErrReadOnly) {
			t.Errorf("merge on a full disk: %v", err)
		}
		first, second := s.Stamp(), s.Stamp()
		if first >= second {
			t.Errorf("stamp %d, then %d", first, second)
		}
		for name, want := range map[string]bool{"before": true, "now": false, "again": false} {
			if _, ok, err := s.Setting(name); err != nil || ok != want {
				t.Errorf("setting %s: %v, %v", name, ok, err)
			}
		}

		low, _ := shares(200 << 20)
		d.free.Store(low + 1)
		time.Sleep(3 * time.Second)
		if err := set("between"); !errors.Is(err, ErrReadOnly) {
			t.Errorf("write between the marks: %v", err)
		}
		d.free.Store(2 * low)
		time.Sleep(3 * time.Second)
		if s.Room().ReadOnly {
			t.Error("still read-only")
		}
		check(t, set("after"))
		if behind, err := s.Merge(delta[0]); behind || err != nil {
			t.Error(behind, err)
		}
	})
}

// replicaWith returns a replica with one setting.
func replicaWith(t *testing.T, i int) *Store {
	t.Helper()
	s := replica(t, i)
	check(t, s.SetSettings(context.Background(), map[string][]byte{"other": {1}}))
	return s
}

// A disk that fills up between two requests of one burst: those that were answered are there, the others are not.
func TestFillUnderLoad(t *testing.T) {
	d := newDisk(150 << 20)
	s := open(t, Config{Dir: t.TempDir(), Node: testNode(0), disk: d.measure})
	results := make(chan error, 400)
	for i := range 400 {
		go func() {
			if i == 200 {
				d.free.Store(1 << 20)
			}
			err := s.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): {1}})
			if _, ok, _ := s.Setting(fmt.Sprint(i)); ok != (err == nil) {
				err = fmt.Errorf("setting %d is there: %v; answer: %w", i, ok, err)
			}
			results <- err
		}()
	}
	for range 400 {
		if err := <-results; err != nil && err.Error() != (&ReadOnlyError{Free: 1 << 20, Needed: s.Room().Needed}).Error() {
			t.Error(err)
		}
	}
	d.free.Store(150 << 20)
	sound(t, s)
}

// The ballast gives way to an opening, as far as is needed, and is made again.
func TestBallast(t *testing.T) {
	dir := t.TempDir()
	d := newDisk(150 << 20)
	cfg := Config{Dir: dir, Node: testNode(0), disk: d.measure}
	s, stop := start(t, cfg)
	check(t, s.SetSettings(context.Background(), map[string][]byte{"a": {1}}))
	path := filepath.Join(dir, ballastFile)
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	_, want := shares(200 << 20)
	s.volume.keep()
	if got := size(); got != int64(want) {
		t.Skipf("ballast of %d bytes, want %d: this disk gives none", got, want)
	}
	stop()

	d.free.Store(0)
	cfg.disk = func(dir string) (uint64, uint64, error) {
		gone := want - uint64(size())
		return gone, 200 << 20, nil
	}
	s, stop = start(t, cfg)
	if !s.Room().ReadOnly {
		t.Error("takes writes on a full disk")
	}
	if left := size(); left >= int64(want) || left < int64(want/2) {
		t.Errorf("ballast of %d bytes after an opening of a full disk, of %d", left, want)
	}
	if _, ok, err := s.Setting("a"); !ok || err != nil {
		t.Error(ok, err)
	}
	stop()

	check(t, os.Remove(path))
	cfg.disk = newDisk(100).measure
	var full *ReadOnlyError
	if _, err := Open(cfg); !errors.As(err, &full) {
		t.Errorf("opened without any room: %v", err)
	}
}

// A store whose directory is gone does not wait for ever to be closed.
func TestCloseGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "store")
		s, err := Open(Config{Dir: dir, Node: testNode(0), Log: quiet})
		check(t, err)
		ran := make(chan error, 1)
		go func() { ran <- s.Run(context.Background()) }()
		check(t, s.SetSettings(context.Background(), map[string][]byte{"a": {1}}))
		check(t, os.RemoveAll(dir))
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "was the directory removed?") {
			t.Errorf("closed: %v", err)
		}
		check(t, <-ran)
		check(t, os.MkdirAll(dir, 0o700)) // Badger ends, and with it the bubble
		time.Sleep(time.Minute)
	})
}

// Whatever the free space does, the mode changes only at its marks.
func TestModeLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Uint64Range(1<<20, 1<<44).Draw(t, "total")
		low, ballast := shares(total)
		back := low + low/4
		if ballast+back > total/2 {
			t.Fatalf("volume of %d: ballast %d and mark %d leave too little", total, ballast, back)
		}
		was := rapid.Bool().Draw(t, "was")
		free := rapid.Uint64Range(0, total).Draw(t, "free")
		now := nextMode(was, free, low, back)
		if free < low && !now || free >= back && now || free >= low && free < back && now != was {
			t.Fatalf("free %d of %d: %v after %v", free, total, now, was)
		}
	})
}
