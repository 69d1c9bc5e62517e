package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSettings(t *testing.T) {
	s := replica(t, 0)
	ctx := context.Background()
	if _, ok, err := s.Setting("a"); ok || err != nil {
		t.Fatal(ok, err)
	}
	check(t, s.SetSettings(ctx, map[string][]byte{"a": []byte("1"), "b": nil}))
	for name, want := range map[string]string{"a": "1", "b": ""} {
		if v, ok, err := s.Setting(name); !ok || err != nil || string(v) != want {
			t.Errorf("setting %s is %q, %v, %v", name, v, ok, err)
		}
	}
	before := s.Digest()
	check(t, s.SetSettings(ctx, map[string][]byte{"a": []byte("1")}))
	if !bytes.Equal(before, s.Digest()) {
		t.Error("a value that stands was written again")
	}
	big := make([]byte, MaxValue+1)
	err := s.SetSettings(ctx, map[string][]byte{"c": []byte("1"), "d": big})
	if _, ok, _ := s.Setting("c"); ok || !errors.Is(err, ErrTooLarge) {
		t.Errorf("half a transaction stands: %v, %v", ok, err)
	}
	many := map[string][]byte{}
	for i := range 4 {
		many[fmt.Sprint("m", i)] = make([]byte, MaxValue)
	}
	if err := s.SetSettings(ctx, many); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := s.SetSettings(ctx, map[string][]byte{strings.Repeat("n", 129): nil}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	sound(t, s)
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	withPool(t, s, "10.0.0.0/24")
	d := add(t, s, "laptop", testKey(0))
	digest, author := s.Digest(), *s.author.Load()
	stop()
	stop()
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := s.Device(d.Key); !errors.Is(err, ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := s.RemoveDevice(context.Background(), d.Key); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	s = open(t, Config{Dir: dir, Node: testNode(0)})
	if !bytes.Equal(digest, s.Digest()) || s.CountDevices() != 1 {
		t.Error("the store came back with another state")
	}
	got, err := s.Device(d.Key)
	check(t, err)
	if fmt.Sprint(got) != fmt.Sprint(d) {
		t.Errorf("got %v, want %v", got, d)
	}
	if *s.author.Load() == author {
		t.Error("the same incarnation again")
	}
	sound(t, s)
}

// TestSync holds the option on which every promise of durability rests: a test that
// kills a process cannot see it, only one that cuts the power.
func TestSync(t *testing.T) {
	if !options("x", quiet).SyncWrites {
		t.Error("acknowledged writes are not synced")
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, Config{Dir: dir, Node: testNode(0)})
	_, err := Open(Config{Dir: dir, Node: testNode(0), Log: quiet})
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.Dir != dir || inUse.PID != os.Getpid() {
		t.Fatal(err)
	}
}

func TestNewerFormat(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	check(t, s.flush(overlay{string(metaFormat): number(format + 1)}))
	stop()
	_, err := Open(Config{Dir: dir, Node: testNode(0), Log: quiet})
	var newer *FormatError
	if !errors.As(err, &newer) || newer.Found != format+1 || newer.Known != format || newer.Dir != dir {
		t.Fatal(err)
	}
}

// TestEmptyLogs opens a store in which a crash left logs that Badger had emptied
// but not removed.
func TestEmptyLogs(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
	check(t, s.SetSettings(context.Background(), map[string][]byte{"a": []byte("1")}))
	stop()
	for _, name := range []string{"00007.mem", "00009.mem", "000009.vlog"} {
		check(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	for range 3 {
		s, stop := start(t, Config{Dir: dir, Node: testNode(0)})
		if v, ok, err := s.Setting("a"); !ok || err != nil || string(v) != "1" {
			t.Fatal(v, ok, err)
		}
		check(t, s.SetSettings(context.Background(), map[string][]byte{"b": []byte(time.Now().String())}))
		sound(t, s)
		stop()
	}
}

func TestWritesWaitForRun(t *testing.T) {
	s, err := Open(Config{Node: testNode(0), Log: quiet})
	check(t, err)
	defer s.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("waited enough")
	cancel(cause)
	if err := s.SetSettings(ctx, map[string][]byte{"a": nil}); !errors.Is(err, cause) {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(running) }()
	check(t, s.SetSettings(context.Background(), map[string][]byte{"a": nil}))
	stop()
	check(t, <-done)
	if err := s.SetSettings(context.Background(), map[string][]byte{"b": nil}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, ok, err := s.Setting("a"); !ok || err != nil {
		t.Fatal("reads need no Run", ok, err)
	}
}

// TestGroups has many writers wait for the committer: it takes them in one commit.
func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Node: testNode(0), Log: quiet})
		check(t, err)
		var commits [][]Ref
		s.Subscribe(func(rs []Ref) { commits = append(commits, rs) })
		var writers, run sync.WaitGroup
		for i := range maxGroup {
			writers.Go(func() {
				if err := s.SetSettings(t.Context(), map[string][]byte{fmt.Sprint(i): {1}}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		run.Go(func() {
			if err := s.Run(context.Background()); err != nil {
				t.Error(err)
			}
		})
		writers.Wait()
		sound(t, s)
		check(t, s.Close())
		run.Wait()
		if len(commits) != 1 || len(commits[0]) != maxGroup || !slices.IsSortedFunc(commits[0], compareRefs) {
			t.Errorf("%d commits: %v", len(commits), commits)
		}
	})
}

// TestLargeGroup has waiting writes that do not fit into one Badger transaction.
func TestLargeGroup(t *testing.T) {
	s := replica(t, 0)
	var rs []*request
	for i := range 40 {
		rs = append(rs, newRequest(func(tx *tx) error {
			return tx.put(settingRef(fmt.Sprint(i)), fieldValue, make([]byte, MaxValue))
		}))
	}
	var wg sync.WaitGroup
	for _, r := range rs {
		wg.Go(func() {
			if err := s.submit(context.Background(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range rs {
		if v, ok, err := s.Setting(fmt.Sprint(i)); !ok || err != nil || len(v) != MaxValue {
			t.Fatal(i, ok, err)
		}
	}
	sound(t, s)
}

// TestFailedRequest leaves the others of its commit alone.
func TestFailedRequest(t *testing.T) {
	s := withPool(t, replica(t, 0), "10.0.0.0/24")
	boom := errors.New("boom")
	good := newRequest(func(tx *tx) error { return tx.put(settingRef("good"), fieldValue, nil) })
	bad := newRequest(func(tx *tx) error {
		if err := tx.put(settingRef("bad"), fieldValue, nil); err != nil {
			return err
		}
		return boom
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { _ = s.submit(context.Background(), newRequest(bad.run)) })
		wg.Go(func() { _ = s.submit(context.Background(), newRequest(good.run)) })
	}
	wg.Wait()
	if err := s.submit(context.Background(), bad); !errors.Is(err, boom) {
		t.Error(err)
	}
	if _, ok, _ := s.Setting("bad"); ok {
		t.Error("a failed request was written")
	}
	if _, ok, _ := s.Setting("good"); !ok {
		t.Error("a good request was not written")
	}
	sound(t, s)
}

func TestSubscribe(t *testing.T) {
	a, b := withPool(t, replica(t, 0), "10.0.0.0/24"), replica(t, 1)
	seen := make(chan []Ref, 16)
	b.Subscribe(func(rs []Ref) { seen <- slices.Clone(rs) })
	d := add(t, a, "laptop", testKey(0))
	pull(t, storeState{b}, storeState{a})
	want := []Ref{{"device", KeyString(d.Key)}, {"setting", "pool"}, {"setting", "ula"}}
	if got := <-seen; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	select {
	case <-a.Changed():
	default:
		t.Error("a local write wants pushing")
	}
	select {
	case <-b.Changed():
		t.Error("a merged write wants no pushing")
	default:
	}
}

// TestCeiling restarts a store with its clock set back: stamps go on above.
func TestCeiling(t *testing.T) {
	dir := t.TempDir()
	c := &fakeClock{at: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	var last uint64
	for range 4 {
		s, stop := start(t, Config{Dir: dir, Node: testNode(0), Now: c.now})
		for range 3 {
			n := s.Stamp()
			if n <= last {
				t.Fatalf("stamp %d after %d", n, last)
			}
			last = n
			check(t, s.submit(context.Background(), newRequest(nil)))
		}
		if ahead := last>>16 - uint64(c.at.UnixMilli()); int64(ahead) > 4*3_600_000 {
			t.Fatalf("stamps run away: %d ms ahead", ahead)
		}
		stop()
		c.move(-time.Hour)
	}
}

// TestRestartStaysInBounds restarts at once: the new stamps are not further ahead
// of the wall than peers accept.
func TestRestartStaysInBounds(t *testing.T) {
	dir := t.TempDir()
	c := &fakeClock{at: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	for range 5 {
		s, stop := start(t, Config{Dir: dir, Node: testNode(0), Now: c.now})
		n := s.Stamp()
		check(t, s.submit(context.Background(), newRequest(nil)))
		stop()
		if ahead := time.Duration(n>>16-uint64(c.at.UnixMilli())) * time.Millisecond; ahead > maxOffset {
			t.Fatalf("stamp is %v ahead of the wall", ahead)
		}
		c.move(600 * time.Millisecond)
	}
}

func TestStampAfter(t *testing.T) {
	c := &fakeClock{at: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	s := open(t, Config{Node: testNode(0), Now: c.now})
	far := wallTime(c.at.Add(time.Hour))
	if got := s.StampAfter(far); got != far+1 {
		t.Errorf("got %d, want %d", got, far+1)
	}
	if got := s.Stamp(); got > wallTime(c.at.Add(maxOffset))+2 {
		t.Errorf("a fast clock spread: %v ahead", time.UnixMilli(int64(got>>16)).Sub(c.at))
	}
}

// TestBubble opens, writes, merges and closes on a fake clock: nothing is left
// running.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := withPool(t, replica(t, 0), "10.0.0.0/24")
		b := replica(t, 1)
		add(t, a, "laptop", testKey(0))
		time.Sleep(time.Minute)
		converge(t, a, b)
		same(t, a, b)
	})
}
