package cluster

import (
	"container/heap"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Int("cluster.seeds", 300, "how many seeds TestSimulator runs")
	simFirst = flag.Int("cluster.first", 0, "the first of them")
	simSeed  = flag.Int("cluster.seed", -1, "the one seed that TestSimulator runs; with -v it prints every event")
)

// TestSimulator runs whole replicas through histories that a seed decides: edits, a network that loses, doubles, delays
// and tears, splits of up to 48 hours, clocks that are wrong and jump, crashes at any commit, disks that are full, are
// rolled back, are restored from older copies or are gone for good. After each event the invariants of sim_check_test.go
// hold at the replica that it touched, and after quiet at all of them.
func TestSimulator(t *testing.T) {
	if *simSeed >= 0 {
		w := newWorld(uint64(*simSeed))
		w.say = t.Log
		if err := w.simulate(); err != nil {
			t.Fatal(err)
		}
		return
	}
	n := *simSeeds
	if testing.Short() {
		n = min(n, 50)
	}
	var next atomic.Int64
	next.Store(int64(*simFirst))
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !failed.Load() {
				seed := next.Add(1) - 1
				if seed >= int64(*simFirst+n) {
					return
				}
				if seed%1000 == 0 && seed > int64(*simFirst) {
					t.Logf("%d seeds without a violation", seed-int64(*simFirst))
				}
				if err := newWorld(uint64(seed)).simulate(); err != nil {
					failed.Store(true)
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestSimulatorPast runs histories that once broke an invariant and lie beyond those that TestSimulator runs.
func TestSimulatorPast(t *testing.T) {
	for _, seed := range []uint64{908, 1146, 1456, 1635, 2038, 2203, 2834, 4304, 5940, 6481, 7264} {
		if err := newWorld(seed).simulate(); err != nil {
			t.Error(err)
		}
	}
}

// TestSimulatorRepeats: a seed has one history.
func TestSimulatorRepeats(t *testing.T) {
	for seed := range uint64(10) {
		var sums [2]uint64
		for i := range sums {
			w := newWorld(seed)
			check(t, w.simulate())
			sums[i] = w.sum.Sum64()
		}
		if sums[0] != sums[1] {
			t.Errorf("seed %d went two ways", seed)
		}
	}
}

// violation is what a history must not do.
type violation string

func (v violation) Error() string { return string(v) }

// world is one history. One goroutine moves it; it waits for the committers, so that nothing happens by itself.
type world struct {
	seed uint64
	rnd  *rand.Rand
	at   atomic.Int64 // nanoseconds since wallStart
	soon events
	said int // events so far

	setBack int // disks that were
	last    []string
	sum     interface {
		Write([]byte) (int, error)
		Sum64() uint64
	}
	say func(...any) // prints each event; may be nil

	over    bool // nobody dies any more
	weather weather
	all     []*gateway
	journal annals
	acked   []acknowledged
	gone    map[ref][]record // deaths that were on all disks at one time
}

// weather is what a history is like.
type weather struct {
	gateways int
	even     bool // all clocks are right
	steps    int
	loss     float64 // of messages
	double   float64
	tear     float64 // of deltas that end in the middle
	devices  int
	pool     string
	part     int           // bytes of a part
	value    int           // bytes of large values; 0: none
	delay    time.Duration // of a message, at most
}

func newWorld(seed uint64) *world {
	w := &world{seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), sum: fnv.New64a()}
	w.journal.init()
	w.gone = map[ref][]record{}
	w.weather = weather{
		gateways: 2 + w.rnd.IntN(5), steps: 40 + w.rnd.IntN(60), devices: 2 + w.rnd.IntN(6),
		loss: w.rnd.Float64() * 0.3, double: w.rnd.Float64() * 0.3, tear: w.rnd.Float64() * 0.4,
		pool:  pick(w, "10.0.0.0/24", "10.0.0.0/28"),
		part:  pick(w, 1, 400, 400, 2<<10, maxPart),
		delay: pick(w, 5*time.Millisecond, 100*time.Millisecond, 3*time.Second),
	}
	if w.weather.part == maxPart && w.rnd.IntN(4) == 0 {
		w.weather.value = 50 << 10
	}
	return w
}

// pick returns one of several values.
func pick[T any](w *world, of ...T) T { return of[w.rnd.IntN(len(of))] }

func (w *world) chance(p float64) bool { return w.rnd.Float64() < p }

func (w *world) now() time.Time { return wallStart.Add(time.Duration(w.at.Load())) }

// note tells what happens.
func (w *world) note(format string, args ...any) {
	w.said++
	line := fmt.Sprintf("%4d %-14v ", w.said, time.Duration(w.at.Load()).Round(time.Millisecond)) + fmt.Sprintf(format, args...)
	_, _ = w.sum.Write([]byte(line))
	if len(w.last) == 50 {
		w.last = slices.Delete(w.last, 0, 1)
	}
	w.last = append(w.last, line)
	if w.say != nil {
		w.say(line)
	}
}

func (w *world) fail(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

func (w *world) check(err error) {
	if err != nil {
		w.fail("unexpected error: %v", err)
	}
}

// simulate runs the history. An error is a violation, with the seed and the last events.
func (w *world) simulate() error { return w.run(w.history) }

// run runs a story after the beginning.
func (w *world) run(story func()) (err error) {
	defer func() {
		v := recover()
		for _, g := range w.all {
			g.halt()
		}
		if v == nil {
			return
		}
		what, ok := v.(violation)
		if !ok {
			panic(v)
		}
		err = errors.New(strings.Join(append(w.last, fmt.Sprintf("seed %d: %s", w.seed, what)), "\n"))
	}()
	w.begin()
	story()
	return nil
}

// history is trouble and quiet in turn.
func (w *world) history() {
	for range 1 + w.rnd.IntN(3) {
		for range w.weather.steps {
			w.wait(w.gap())
			w.act()
		}
		w.quiet()
	}
	w.over = true
	w.wait(time.Hour) // what is still on its way arrives late, by chance from a disk that is no more
	w.quiet()
}

// gap returns how long it is to the next action: often none, so that clocks tie.
func (w *world) gap() time.Duration {
	longest := pick(w, 0, 0, 0, 0, 100*time.Millisecond, 100*time.Millisecond, 5*time.Second, 10*time.Minute)
	return w.upTo(longest)
}

// upTo returns a time of whole milliseconds.
func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rnd.Int64N(d.Milliseconds()+1)) * time.Millisecond
}

// happening is something on its way.
type happening struct {
	at time.Duration
	n  int // the order of those at one time
	do func()
}

type events []happening

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(happening)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// after has something happen later.
func (w *world) after(d time.Duration, do func()) {
	w.said++
	heap.Push(&w.soon, happening{at: time.Duration(w.at.Load()) + d, n: w.said, do: do})
}

// wait lets time pass, with what it brings.
func (w *world) wait(d time.Duration) {
	end := time.Duration(w.at.Load()) + d
	for len(w.soon) > 0 && w.soon[0].at <= end {
		e := heap.Pop(&w.soon).(happening)
		w.at.Store(int64(max(e.at, time.Duration(w.at.Load()))))
		e.do()
	}
	w.at.Store(int64(end))
}

// actions are what may happen by itself, with how often.
var actions = []struct {
	often int
	do    func(*world, *gateway)
}{
	{60, (*world).edit},
	{35, (*world).ask},
	{6, (*world).crash},
	{4, (*world).split},
	{3, (*world).heal},
	{4, (*world).save},
	{3, (*world).restore},
	{2, (*world).fill},
	{2, (*world).jump},
	{2, (*world).sleep},
	{2, (*world).impatient},
	{8, (*world).collect},
	{1, (*world).die},
}

func (w *world) act() {
	sum := 0
	for _, a := range actions {
		sum += a.often
	}
	n := w.rnd.IntN(sum)
	for _, a := range actions {
		if n -= a.often; n < 0 {
			a.do(w, pick(w, w.all...))
			return
		}
	}
}
