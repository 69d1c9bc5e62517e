package node_test

import (
	"sync"
	"time"

	"gatemesh/node/labtest"
)

// report ends the pings and says what was seen.
func (s *soak) report(w wire) {
	s.t.Helper()
	var wg sync.WaitGroup
	for _, g := range s.guests {
		wg.Go(func() { s.leave(g) })
	}
	wg.Wait()
	for i, p := range s.pings {
		s.stays = append(s.stays, stay{s.clients[i].Name, s.begin, p.Stop()})
	}
	for _, err := range s.errs {
		s.t.Error(err)
	}

	for _, f := range s.faults {
		s.t.Logf("%v: %s of %s, whole again after %v", labtest.Round(f.from.Sub(s.begin)), f.kind, f.gateway, labtest.Round(f.until.Sub(f.from)))
	}
	answered, lost := 0, make(map[string]int)
	for _, stay := range s.stays {
		answered += len(stay.log.Replies)
		var mine []time.Time
		for _, at := range stay.log.Lost {
			kind := s.cause(stay, at)
			if lost[kind]++; kind == quiet {
				mine = append(mine, at)
			}
		}
		if n := len(mine); n > 0 {
			s.t.Logf("%s lost %d pings for no known cause, from %v to %v", stay.who, n,
				labtest.Round(mine[0].Sub(s.begin)), labtest.Round(mine[n-1].Sub(s.begin)))
		}
	}
	kinds := make(map[string]int)
	for _, f := range s.faults {
		kinds[f.kind]++
	}
	forged := s.forged
	for _, g := range s.gws {
		forged += forgedAt(g)
	}
	var table labtest.Table
	table.Row("time", "devices", "pings answered", "changes", "gateways killed, ended, frozen", "lost then", "lost else", "lost when the machine dropped frames",
		"connecting", "connect p50", "p99", "handshake messages", "failed authentication", "MB streamed", "streams broken")
	table.Row(time.Since(s.begin), len(s.guests)+len(s.clients), answered, s.changes,
		[]int{kinds["kill"], kinds["end"], kinds["freeze"]}, []int{lost["kill"], lost["end"], lost["freeze"]}, lost[quiet],
		lost[machine], lost[connecting], s.connects.P(.5), s.connects.P(.99), w.handshakes(-1), forged, s.streamed>>20, s.broken)
	s.t.Log(&table)
	s.lab.Bar(lost[quiet] == 0, "0 pings lost but to a gateway that was taken away: %d", lost[quiet])
	s.lab.Bar(lost["end"] == 0, "0 pings lost when a gateway ends as asked: %d", lost["end"])
	s.lab.Bar(forged == 0, "0 packets fail authentication: %d", forged)
	s.compare()
}

// Causes of a loss, beside what was done to a gateway.
const (
	quiet      = "none"
	connecting = "connecting"
	machine    = "machine" // it dropped frames then
)

// settle is how long a fault may cost pings after it happened.
const settle = 3 * time.Second

// cause says what a lost ping is put down to.
func (s *soak) cause(st stay, at time.Time) string {
	if len(st.log.Replies) == 0 || at.Before(st.log.Replies[0].At) {
		return connecting
	}
	for _, f := range s.faults {
		if at.After(f.from.Add(-time.Second)) && at.Before(f.from.Add(settle)) {
			return f.kind
		}
	}
	for _, seen := range s.drops {
		if at.After(seen.Add(-2*dropEvery)) && at.Before(seen.Add(dropEvery)) {
			return machine
		}
	}
	if at.Before(s.begin) {
		return connecting
	}
	return quiet
}

// compare compares what gw1 used in the first third of the time, after its
// first minute of it, with the last.
func (s *soak) compare() {
	var first, last usage
	total := time.Since(s.begin)
	warm := min(time.Minute, total/10)
	for _, m := range s.samples {
		switch at := m.at.Sub(s.begin); {
		case m.gateway != 0 || at < warm:
		case at < total/3:
			first.add(m)
		case at > total*2/3:
			last.add(m)
		}
	}
	var table labtest.Table
	table.Row("gw1", "samples", "RSS mean MB", "max MB", "goroutines mean", "files mean", "max")
	for name, u := range map[string]*usage{"first third": &first, "last third": &last} {
		table.Row(name, u.n, u.mean(u.rss)/(1<<20), float64(u.maxRSS)/(1<<20), u.mean(u.goroutines), u.mean(u.files), u.maxFiles)
	}
	s.t.Log(&table)
	s.lab.Bar(last.mean(last.rss) <= 1.15*first.mean(first.rss)+4<<20, "memory is flat: %.1f MB, then %.1f MB",
		first.mean(first.rss)/(1<<20), last.mean(last.rss)/(1<<20))
	s.lab.Bar(last.mean(last.goroutines) <= 1.1*first.mean(first.goroutines)+4, "goroutines are flat: %.1f, then %.1f",
		first.mean(first.goroutines), last.mean(last.goroutines))
	s.lab.Bar(last.mean(last.files) <= 1.1*first.mean(first.files)+4, "open files are flat: %.1f, then %.1f", first.mean(first.files), last.mean(last.files))
}

// usage sums up samples.
type usage struct {
	n                      int
	rss, files, goroutines float64
	maxRSS                 uint64
	maxFiles               int
}

func (u *usage) add(m sample) {
	u.n++
	u.rss += float64(m.rss)
	u.files += float64(m.files)
	u.maxRSS, u.maxFiles = max(u.maxRSS, m.rss), max(u.maxFiles, m.files)
	u.goroutines += float64(m.goroutines)
}

func (u *usage) mean(sum float64) float64 {
	if u.n == 0 {
		return 0
	}
	return sum / float64(u.n)
}
