package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fill enrols devices, many in one transaction.
func fill(b testing.TB, s *Store, n int) {
	b.Helper()
	withPool(b, s, "100.64.0.0/10")
	const step = 200
	for i := 0; i < n; i += step {
		check(b, s.update(context.Background(), func(t *tx) error {
			for j := i; j < min(i+step, n); j++ {
				t.size = 0
				if _, err := t.addDevice(fmt.Sprint("device-", j), benchKey(j), wallStart); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

func benchKey(i int) (k Key) {
	h := hashKey("bench", Key{byte(i), byte(i >> 8), byte(i >> 16)})
	for j, w := range h {
		binary.BigEndian.PutUint64(k[8*j:], w)
	}
	return k
}

func BenchmarkDevice(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), Node: testNode(0)})
	const n = 20_000
	fill(b, s, n)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Device(benchKey(i * 7919 % n)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut is the rate of durable writes: one at a time, and of so many who each wait for theirs.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			s := open(b, Config{Dir: b.TempDir(), Node: testNode(0)})
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						check(b, s.SetSettings(context.Background(), map[string][]byte{fmt.Sprint(i): {1}}))
					}
				})
			}
			wg.Wait()
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	src := replica(b, 0)
	fill(b, src, 2000)
	ps := parts(b, storeState{src}, nil)
	for b.Loop() {
		s, stop := start(b, Config{Dir: b.TempDir(), Node: testNode(1)})
		for _, p := range ps {
			if _, err := s.Merge(p); err != nil {
				b.Fatal(err)
			}
		}
		stop()
	}
	b.ReportMetric(float64(2000*b.N)/b.Elapsed().Seconds(), "devices/s")
}

// BenchmarkDelta finds ten changed cells among those of many devices.
func BenchmarkDelta(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), Node: testNode(0)})
	fill(b, s, 20_000)
	digest := s.Digest()
	for i := range 10 {
		check(b, s.RenameDevice(context.Background(), benchKey(i), fmt.Sprint("changed-", i)))
	}
	size := 0
	for b.Loop() {
		size = 0
		for p := range s.Delta(digest) {
			size += len(p)
		}
	}
	b.ReportMetric(float64(size), "B/delta")
}

// BenchmarkEnrolled says what many enrolled devices cost.
func BenchmarkEnrolled(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		dir := b.TempDir()
		before := heapInUse()
		s, stop := start(b, Config{Dir: dir, Node: testNode(0)})
		fill(b, s, n)
		b.ReportMetric(float64(heapInUse()-before)/(1<<20), "MiB-filled")
		stop()
		before = heapInUse()
		began := time.Now()
		s, stop = start(b, Config{Dir: dir, Node: testNode(0)})
		if _, err := s.Device(benchKey(77)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-to-first-device")
		for i := range n {
			if _, err := s.Device(benchKey(i)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heapInUse()-before)/(1<<20), "MiB-reopened")
		stop()
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

func BenchmarkPlace(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	own := Load{Node: testNode(0), Sessions: 300, Capacity: 1024}
	var peers []Load
	for i := range 16 {
		peers = append(peers, Load{Node: testNode(i + 1), Sessions: 290 + i, Capacity: 1024})
	}
	b.ReportAllocs()
	for b.Loop() {
		Place(own, peers, rnd)
	}
}

func BenchmarkHeirs(b *testing.B) {
	var alive []Weighted
	for i := range 16 {
		alive = append(alive, Weighted{Node: testNode(i), Capacity: 1024})
	}
	b.ReportAllocs()
	for b.Loop() {
		Heirs(Key{1}, testNode(3), alive)
	}
}

func BenchmarkSessionsPut(b *testing.B) {
	t := table(0, 1)
	s := session(0, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Device, s.Epoch = benchKey(i%10_000), uint64(i)+1
		t.Put(s)
	}
}

// BenchmarkSessionsPush brings one change to a peer that has ten thousand.
func BenchmarkSessionsPush(b *testing.B) {
	t, peer := table(0, 1), table(1, 1)
	for i := range 10_000 {
		s := session(0, 1)
		s.Device = benchKey(i)
		t.Put(s)
	}
	pull(b, sessionsState{peer}, sessionsState{t})
	s := session(0, 2)
	for i := 0; b.Loop(); i++ {
		s.Device, s.Epoch = benchKey(i%10_000), uint64(i)+2
		t.Put(s)
		pull(b, sessionsState{peer}, sessionsState{t})
	}
}
