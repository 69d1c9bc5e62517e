package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabSoak lets devices and gateways come and go under pings and streams for
// -lab.soak, else for moments. Run it by itself:
//
//	go test -count=1 -timeout 60m -v -run TestLabSoak ./node -lab.soak=30m
//
// gw1 lives throughout, so that its memory and goroutines can be compared; the
// others are killed, asked to end or frozen.
func TestLabSoak(t *testing.T) {
	patient(t)
	lab := newLab(t)
	length, long := labtest.Soak(), labtest.Soak() > 0
	if !long {
		length = 10 * time.Second
	}
	pick := func(short, long int) int {
		if labtest.Soak() > 0 {
			return long
		}
		return short
	}
	gws := threeGateways(t, lab)
	s := &soak{t: t, lab: lab, gws: gws, host: lab.Host("host"), every: 500 * time.Millisecond, pause: 3 * time.Second}
	if !long {
		s.every, s.pause = 100*time.Millisecond, time.Second
	}
	s.addClients(pick(2, 10))
	for i := range pick(8, 180) {
		name := fmt.Sprintf("device%d", i+1)
		s.guests = append(s.guests, &guest{Device: lab.Device(name, gws[0].AddDevice(name)), name: name})
	}
	for _, g := range s.guests {
		s.arrive(g)
	}
	w := captureAll(gws)

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	s.begin = time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { s.churn(ctx) })
	wg.Go(func() { s.watch(ctx, length) })
	wg.Go(func() { s.watchDrops(ctx) })
	for i := range pick(1, 4) {
		wg.Go(func() { s.stream(ctx, s.clients[i]) })
	}
	s.disturb(ctx, pick(1, 1000), time.Duration(pick(2, 45))*time.Second)
	wg.Wait()
	s.report(w)
}

// soak is the state of the test of that name.
type soak struct {
	t     *testing.T
	lab   *labtest.Lab
	gws   []*labtest.Gateway
	host  *labtest.Host
	every time.Duration // between the pings of a device
	pause time.Duration // between two changes to devices
	begin time.Time

	clients []*labtest.Client
	pings   []*labtest.Ping
	guests  []*guest

	mu       sync.Mutex // guards the fields below
	stays    []stay
	faults   []fault
	samples  []sample
	forged   uint64 // at gateways that are gone
	connects labtest.Durations
	changes  map[string]int
	drops    []time.Time // when the machine was seen to have dropped frames
	streamed uint64      // bytes
	broken   int         // streams that did not end well
	errs     []error
}

// guest is a device that comes and goes.
type guest struct {
	*labtest.Device
	name   string
	pinger *labtest.Pinger
	came   time.Time
}

// stay is what a device saw from coming to going.
type stay struct {
	who  string
	came time.Time
	log  labtest.PingLog
}

// fault is what was done to a gateway.
type fault struct {
	kind        string
	gateway     string
	from, until time.Time // whole again
}

// sample is what a gateway used at a moment.
type sample struct {
	at                time.Time
	gateway           int
	rss               uint64
	goroutines, files int
}

// addClients brings up n stock clients of each build, each a process with a
// kernel's ping beside it.
func (s *soak) addClients(n int) {
	for _, build := range []labtest.Stock{labtest.Module, labtest.Debian} {
		if _, err := build.Path(); errors.Is(err, labtest.ErrNoStock) {
			s.t.Logf("no %s client: %v", build, err)
			continue
		}
		for i := range n {
			name := fmt.Sprintf("%s%d", build, i+1)
			s.clients = append(s.clients, s.lab.ClientOf(build, name, s.gws[0].AddDevice(name)))
		}
	}
	connect(s.t, s.lab, s.clients)
	for _, c := range s.clients {
		s.pings = append(s.pings, c.Ping(inner, s.every))
	}
}

// arrive brings a device up and waits for its first answer.
func (s *soak) arrive(g *guest) {
	if err := g.Up(); err != nil {
		s.fail(err)
		return
	}
	g.came = time.Now()
	g.pinger = g.Ping(inner, s.every)
	for time.Since(g.came) < recoverLimit && g.pinger.Answered(g.came) == 0 {
		s.lab.Observe(2 * time.Millisecond)
	}
	if g.pinger.Answered(g.came) == 0 {
		s.fail(fmt.Errorf("%s: no answer in %v at %v", g.name, recoverLimit, time.Since(s.begin)))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connects = append(s.connects, time.Since(g.came))
}

// leave ends the pings of a device and the device.
func (s *soak) leave(g *guest) {
	log := g.pinger.Stop()
	g.Down()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stays = append(s.stays, stay{g.name, g.came, log})
}

func (s *soak) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// churn changes one device after the other.
func (s *soak) churn(ctx context.Context) {
	s.mu.Lock()
	s.changes = make(map[string]int)
	s.mu.Unlock()
	kinds := []struct {
		name string
		do   func(*guest)
	}{{"away", s.away}, {"disabled", s.disable}, {"replaced", s.replace}, {"roamed", s.roam}}
	for i := 0; ctx.Err() == nil; i++ {
		kind := kinds[i%len(kinds)]
		g := s.guests[rand.N(len(s.guests))]
		kind.do(g)
		s.mu.Lock()
		s.changes[kind.name]++
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(2 * s.pause)):
		}
	}
}

func (s *soak) away(g *guest) {
	s.leave(g)
	s.lab.Observe(rand.N(s.pause))
	s.arrive(g)
}

// disable refuses a device for a while; it must be silent by then.
func (s *soak) disable(g *guest) {
	log := g.pinger.Stop()
	s.mu.Lock()
	s.stays = append(s.stays, stay{g.name, g.came, log})
	s.mu.Unlock()
	s.command("device", "disable", g.name)
	s.lab.Observe(time.Second)
	after := time.Now()
	p := g.Ping(inner, s.every)
	s.lab.Observe(time.Second)
	if n := len(p.Stop().Replies); n > 0 {
		s.fail(fmt.Errorf("%s: %d answers from %v on, a second after it was disabled", g.name, n, after.Sub(s.begin)))
	}
	g.Down()
	s.command("device", "enable", g.name)
	s.lab.Observe(spreadAfter)
	s.arrive(g)
}

// replace removes a device and enrols another in its place.
func (s *soak) replace(g *guest) {
	s.leave(g)
	s.command("device", "remove", g.name)
	text := s.command("device", "add", g.name)
	conf, err := labtest.ParseConfig(text)
	if err != nil {
		s.fail(err)
		return
	}
	g.Device = g.Node.Device(conf)
	s.lab.Observe(spreadAfter)
	s.arrive(g)
}

func (s *soak) roam(g *guest) {
	if err := g.Roam(); err != nil {
		s.fail(err)
	}
}

// command runs a command at the gateway that lives throughout.
func (s *soak) command(args ...string) string {
	out, err := s.gws[0].TryCLI(args...)
	if err != nil {
		s.fail(err)
	}
	return out
}

// stream sends TCP through the tunnel at a moderate rate, again and again. A
// stream dies with its gateway, which masquerades it.
func (s *soak) stream(ctx context.Context, c *labtest.Client) {
	for ctx.Err() == nil {
		n, err := c.Pour(netip.AddrPortFrom(s.host.LAN, labtest.EchoPort), 5*time.Second, 256<<10)
		s.mu.Lock()
		s.streamed += n
		if err != nil {
			s.broken++
		}
		s.mu.Unlock()
	}
}

// disturb kills, ends or freezes gateways other than gw1, at most n times, with
// pauses of about that long.
func (s *soak) disturb(ctx context.Context, n int, pause time.Duration) {
	for i := 0; i < n; i++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		g := s.gws[1+i%2]
		s.mu.Lock()
		s.forged += forgedAt(g)
		s.mu.Unlock()
		f := fault{from: time.Now(), gateway: g.Name, kind: []string{"kill", "end", "freeze"}[i/2%3]}
		switch f.kind {
		case "kill":
			g.Kill()
		case "end":
			g.Stop()
		case "freeze":
			g.Freeze()
			s.lab.Observe(rand.N(3 * time.Second))
			g.Thaw()
		}
		if f.kind != "freeze" {
			s.lab.Observe(3 * time.Second)
			g.Start()
			g.WaitReady()
		}
		waitOneCluster(s.lab, s.gws)
		f.until = time.Now()
		s.mu.Lock()
		s.faults = append(s.faults, f)
		s.mu.Unlock()
	}
}

// forgedAt returns the packets that failed authentication at a gateway.
func forgedAt(g *labtest.Gateway) uint64 {
	var status labtest.StatusInfo
	if err := g.TryJSON(&status, "status"); err != nil || status.AuthFailures == nil {
		return 0
	}
	return *status.AuthFailures
}

// watch samples what the gateways use.
func (s *soak) watch(ctx context.Context, length time.Duration) {
	tick := time.NewTicker(max(length/180, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i, g := range s.gws {
			if i > 0 && g.Process.Ended() {
				continue
			}
			n, err := g.Process.Goroutines()
			if err != nil {
				continue // it has just ended
			}
			m := sample{time.Now(), i, g.Process.Usage().RSS, n, g.Process.Files()}
			s.mu.Lock()
			s.samples = append(s.samples, m)
			s.mu.Unlock()
		}
	}
}

// dropEvery is how often the machine is asked for frames that it dropped.
const dropEvery = 500 * time.Millisecond

// watchDrops notes when the machine itself dropped frames.
func (s *soak) watchDrops(ctx context.Context) {
	tick := time.NewTicker(dropEvery)
	defer tick.Stop()
	last := labtest.Dropped()
	for ctx.Err() == nil {
		if n := labtest.Dropped(); n > last {
			s.mu.Lock()
			s.drops = append(s.drops, time.Now())
			s.mu.Unlock()
			last = n
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
