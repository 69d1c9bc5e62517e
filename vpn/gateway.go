package vpn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// ErrClosed is returned by Run after Close.
var ErrClosed = errors.New("gateway is closed")

// PortError is returned by New when the UDP port cannot be opened.
type PortError struct {
	Port uint16
	Err  error
}

func (e *PortError) Error() string { return fmt.Sprintf("open UDP port %d: %v", e.Port, e.Err) }
func (e *PortError) Unwrap() error { return e.Err }

// Config is what a Gateway is made of. Bind and TUN belong to the Gateway from New on, also when New fails.
type Config struct {
	PrivateKey Key              // the cluster identity
	Port       uint16           // UDP; 0: any
	Bind       conn.Bind        // nil: the fastest of this system
	TUN        tun.Device       // where packets of devices go and packets for devices come from
	MTU        int              // inner; 0: 1420
	Portable   bool             // packets take the way that works on every system, for comparison
	Lookup     LookupFunc       // required
	Steer      SteerFunc        // nil: every initiation is answered here
	Notify     func(Event)      // nil: nobody wants to know. Must not block, may call the Gateway but not Close; called from two goroutines or more
	Forward    ForwardFunc      // nil: packets for devices that were handed over are dropped
	Unknown    UnknownFunc      // nil: messages under unknown keys are dropped
	Now        func() time.Time // wall clock for TAI64N, events and sessions; nil: time.Now
	Log        *slog.Logger     // nil: discarded
}

// Gateway answers devices on one UDP port. All its methods may be called at any time from any goroutine.
type Gateway struct {
	cfg      Config
	identity *identity
	start    time.Time                  // zero of all durations below; an hour before New, so that 0 means never
	dev      atomic.Pointer[tun.Device] // written by New and Reopen
	receive  []conn.ReceiveFunc
	port     uint16
	batch    int // of the bind

	incarnation uint64
	allowed     allowedIPs
	indices     indexTable
	schedule    *schedule
	outbox      *outbox
	requests    *requests
	vault       *vault
	strangers   *strangers
	intake      *intake
	cookies     *cookies
	whereabouts *whereabouts
	remotes     remotes
	allowUntil  atomic.Int64  // the fence, since start
	alone       atomic.Bool   // a gateway that may be serving devices of ours is out of reach
	slept       atomic.Int64  // what Slept has added to the clock
	staged      atomic.Int64  // packets waiting for keys, all devices
	confirmed   atomic.Int64  // devices with a current keypair
	generation  atomic.Uint64 // of what Lookup says: raised by Refresh
	exported    atomic.Uint64 // exports made, by which they are numbered
	lastRenewal atomic.Int64  // the last time that was given out for making new keys after a takeover, since start
	count       counters

	pending pending

	mu    sync.Mutex // guards the field below
	peers map[Key]*peer

	life struct {
		sync.Mutex                // guards the fields below
		closed     chan struct{}  // closed by Close
		running    sync.WaitGroup // Run
		isClosed   bool
		started    bool
		isRunning  bool
		spent      bool         // Run has ended: bind and TUN are closed
		closeIO    func() error // closes bind and TUN, once
	}
}

// New opens the UDP port and starts nothing. It returns a *PortError when the port cannot be opened.
func New(cfg Config) (*Gateway, error) {
	if cfg.TUN == nil {
		return nil, errors.New("no TUN device")
	}
	if cfg.Bind == nil && cfg.Portable {
		cfg.Bind = conn.NewStdNetBind()
	} else if cfg.Bind == nil {
		cfg.Bind = newBind(shards())
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Steer == nil {
		cfg.Steer = func(Key, netip.AddrPort, []byte) bool { return true }
	}
	if cfg.Notify == nil {
		cfg.Notify = func(Event) {}
	}
	g := &Gateway{
		cfg:         cfg,
		start:       time.Now().Add(-time.Hour),
		schedule:    newSchedule(),
		outbox:      newOutbox(),
		requests:    newRequests(),
		vault:       newVault(),
		strangers:   newStrangers(),
		intake:      newIntake(),
		whereabouts: newWhereabouts(),
		peers:       make(map[Key]*peer),
	}
	var random [8]byte
	rand.Read(random[:])
	g.dev.Store(&cfg.TUN)
	g.cfg.TUN = nil
	g.incarnation = le.Uint64(random[:])
	g.life.closed = make(chan struct{})
	g.life.closeIO = g.ioCloser()
	if err := g.open(); err != nil {
		g.life.closeIO()
		return nil, err
	}
	return g, nil
}

func (g *Gateway) open() (err error) {
	if g.cfg.Lookup == nil {
		return errors.New("no lookup function")
	}
	if g.cfg.MTU < 576 || g.cfg.MTU > 1<<16-1 {
		return fmt.Errorf("MTU %d is not between 576 and 65535", g.cfg.MTU)
	}
	if g.identity, err = newIdentity(g.cfg.PrivateKey); err != nil {
		return err
	}
	clear(g.cfg.PrivateKey[:])
	g.cookies = newCookies(g.identity)
	if g.receive, g.port, err = g.cfg.Bind.Open(g.cfg.Port); err != nil {
		return &PortError{g.cfg.Port, err}
	}
	g.batch = g.cfg.Bind.BatchSize()
	return nil
}

// Run moves packets until ctx is done, which is no error, or the port or the TUN fails for good: closed by somebody
// else, or nothing but errors for failingFor; then the error wraps ErrSocket or ErrTUN and Reopen is possible. Other
// errors of theirs are counted and tried again. Afterwards the port and the TUN are closed.
func (g *Gateway) Run(ctx context.Context) error {
	closeIO, err := g.begins()
	if err != nil {
		return err
	}
	defer g.ends()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.unblock(ctx, cancel, closeIO) })
	g.movePackets(ctx, group)
	for range workers(runtime.GOMAXPROCS(0)) {
		group.Go(func() error { return g.work(ctx) })
	}
	group.Go(func() error { return g.challenges(ctx) })
	group.Go(func() error { return g.sweep(ctx) })
	group.Go(func() error { return g.notify(ctx) })
	group.Go(func() error { return g.watchTUN(ctx) })
	return group.Wait()
}

// workers is how many handshake workers there are. One processor is left to packets: where all are busy with handshakes,
// Go's scheduler asks for news of the sockets only every 10 ms.
func workers(processors int) int { return max(1, min(processors-1, 8)) }

// begins notes that Run begins, if it may, and returns what closes the bind and the TUN.
func (g *Gateway) begins() (closeIO func() error, err error) {
	g.life.Lock()
	defer g.life.Unlock()
	switch {
	case g.life.isClosed:
		return nil, ErrClosed
	case g.life.isRunning || g.life.spent:
		return nil, errors.New("gateway has been run already")
	}
	g.life.started, g.life.isRunning = true, true
	g.life.running.Add(1)
	return g.life.closeIO, nil
}

func (g *Gateway) ends() {
	g.life.Lock()
	defer g.life.Unlock()
	g.life.isRunning, g.life.spent = false, true
	g.life.running.Done()
}

// unblock ends the goroutines that wait for the socket or the TUN.
func (g *Gateway) unblock(ctx context.Context, cancel context.CancelFunc, closeIO func() error) error {
	select {
	case <-ctx.Done():
	case <-g.life.closed:
		cancel()
	}
	closeIO() // Close tells the error
	return nil
}

// notify tells events, in order.
func (g *Gateway) notify(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.outbox.wake:
			for _, n := range g.outbox.take() {
				g.cfg.Notify(n.settle())
				if n.keys != nil {
					n.keys.untold.Store(false)
				}
			}
		}
	}
}

// Close ends Run, waits for it, closes the port and the TUN and erases all keys. No events are told any more. The
// error is that of closing the port and the TUN, also when Run has closed them.
func (g *Gateway) Close() error {
	g.life.Lock()
	if !g.life.isClosed {
		g.life.isClosed = true
		close(g.life.closed)
	}
	g.life.Unlock()
	g.life.running.Wait()
	g.life.Lock()
	closeIO := g.life.closeIO // there is no other any more
	g.life.Unlock()
	err := closeIO()
	for _, p := range g.live() {
		g.forget(p, true)
	}
	g.remotes.erase()
	g.vault.clear()
	return err
}

// tun is the one in use: that of Config until Reopen.
func (g *Gateway) tun() tun.Device { return *g.dev.Load() }

// Port is the UDP port in use.
func (g *Gateway) Port() uint16 { return g.port }

// now is the time since start. It goes on while the process is frozen; for what the monotonic clock has missed, see
// Slept.
func (g *Gateway) now() time.Duration { return time.Since(g.start) + time.Duration(g.slept.Load()) }

// Allow moves the sender's fence: handshake and transport messages leave only before until, which is made from
// time.Now, so that steps of the wall clock do not count. The zero time closes it; before the first call it is closed. Data that it holds back is lost; initiations are retried by their timers.
func (g *Gateway) Allow(until time.Time) {
	if until.IsZero() {
		g.allowUntil.Store(0)
		return
	}
	g.allowUntil.Store(int64(until.Sub(g.start)) + g.slept.Load())
}

// Slept moves the engine's clock on by d, for which the host slept and its monotonic clock stood still: keys have aged
// by it, and the fence has closed if its deadline was nearer. A d that is not positive does nothing.
func (g *Gateway) Slept(d time.Duration) {
	if d <= 0 {
		return
	}
	g.slept.Add(int64(d))
	g.schedule.rouse()
}

// send lets sealed messages leave for an endpoint, if the fence is open now, and reports whether they did.
func (g *Gateway) send(messages [][]byte, to *endpoint) bool {
	if g.fenced() {
		g.count.fenced.Add(uint64(len(messages)))
		return false
	}
	for len(messages) > 0 {
		n := min(len(messages), g.batch)
		if to.single.Load() {
			n = 1
		}
		err := g.cfg.Bind.Send(messages[:n], to.form())
		if n > 1 && tooLarge(err) {
			to.single.Store(true)
			continue // the same messages again: those that did leave are replays to the device
		}
		if sourceRefused(err) && g.unbindSource(to) {
			continue
		}
		if err != nil {
			g.sendFailed(to, err)
		}
		messages = messages[n:]
	}
	return true
}

// tooLarge reports whether a batch may have been refused for its form: segmentation offload does not fragment, so the
// kernel refuses segments that exceed the path's MTU, with the one or the other error by its version.
func tooLarge(err error) bool {
	return errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EINVAL)
}

func (g *Gateway) sendFailed(to *endpoint, err error) {
	var gso conn.ErrUDPGSODisabled
	if errors.As(err, &gso) {
		g.cfg.Log.Info("UDP segmentation offload switched off", "error", err)
		err = gso.RetryErr
	}
	if err != nil {
		g.count.sendErrors.Add(1)
		g.cfg.Log.Debug("send", "to", to.addr, "error", err)
	}
}

// fenced reports whether the fence is closed.
func (g *Gateway) fenced() bool { return int64(g.now()) >= g.allowUntil.Load() }
