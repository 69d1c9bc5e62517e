//go:build unix

package bench

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"gatemesh/vpn/vpntest"
)

// patience is how long a benchmark waits for what must come.
const patience = 20 * time.Second

// outer is the address of all devices.
var outer = &vpntest.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.1:51820")}

// wire is a conn.Bind without a network: the benchmark puts batches in and is told what is sent. Nothing is dropped.
type wire struct {
	in   chan [][]byte
	sent atomic.Pointer[func(messages [][]byte)] // called by whoever sends

	mu     sync.Mutex    // guards the field below
	closed chan struct{} // nil: not open
}

func newWire() *wire {
	w := &wire{in: make(chan [][]byte, 16)}
	w.onSent(func([][]byte) {})
	return w
}

func (w *wire) onSent(fn func(messages [][]byte)) { w.sent.Store(&fn) }

// Open implements conn.Bind. The module's device closes a bind before it opens it.
func (w *wire) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	closed := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = closed
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case batch := <-w.in:
			for i, m := range batch {
				sizes[i], eps[i] = copy(bufs[i], m), outer
			}
			return len(batch), nil
		case <-closed:
			return 0, net.ErrClosed
		}
	}
	return []conn.ReceiveFunc{receive}, 51820, nil
}

func (w *wire) Send(messages [][]byte, _ conn.Endpoint) error {
	(*w.sent.Load())(messages)
	return nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != nil {
		close(w.closed)
		w.closed = nil
	}
	return nil
}

func (w *wire) ParseEndpoint(string) (conn.Endpoint, error) { return outer, nil }
func (w *wire) BatchSize() int                              { return conn.IdealBatchSize }
func (w *wire) SetMark(uint32) error                        { return nil }

// network is a tun.Device without an operating system: it has as many copies of one packet as the benchmark asks for,
// and counts what is written.
type network struct {
	packet  []byte
	wanted  chan int
	left    int // of those wanted; the reader's
	written counter
	events  chan tun.Event
	closed  chan struct{}
	close   sync.Once
}

func newNetwork() *network {
	n := &network{wanted: make(chan int, 1), events: make(chan tun.Event, 1), closed: make(chan struct{})}
	n.events <- tun.EventUp
	return n
}

func (n *network) Read(bufs [][]byte, sizes []int, offset int) (count int, err error) {
	if n.left == 0 {
		select {
		case n.left = <-n.wanted:
		case <-n.closed:
			return 0, os.ErrClosed
		}
	}
	count = min(n.left, len(bufs))
	n.left -= count
	for i := range count {
		sizes[i] = copy(bufs[i][offset:], n.packet)
	}
	return count, nil
}

func (n *network) Write(bufs [][]byte, _ int) (int, error) {
	n.written.add(len(bufs))
	return len(bufs), nil
}

func (n *network) Close() error {
	n.close.Do(func() { close(n.closed); close(n.events) })
	return nil
}

func (n *network) File() *os.File           { return nil }
func (n *network) MTU() (int, error)        { return 1420, nil }
func (n *network) Name() (string, error)    { return "memory", nil }
func (n *network) Events() <-chan tun.Event { return n.events }
func (n *network) BatchSize() int           { return conn.IdealBatchSize }

// counter lets one goroutine wait until others have counted so many.
type counter struct {
	n, target atomic.Int64
	reached   chan struct{}
}

// expect begins to wait for n more; nobody may count meanwhile.
func (c *counter) expect(n int) {
	c.reached = make(chan struct{})
	c.target.Store(c.n.Load() + int64(n))
}

func (c *counter) add(n int) {
	now := c.n.Add(int64(n))
	if target := c.target.Load(); now >= target && now-int64(n) < target {
		close(c.reached)
	}
}

func (c *counter) wait(b *testing.B) {
	b.Helper()
	select {
	case <-c.reached:
	case <-time.After(patience):
		b.Fatalf("%d of %d do not come", c.target.Load()-c.n.Load(), c.target.Load())
	}
}

// meter sums the CPU time of the process while it is on.
type meter struct {
	total, began time.Duration
}

func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // it has no way to fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (m *meter) on(b *testing.B)  { m.began = processCPU(); b.StartTimer() }
func (m *meter) off(b *testing.B) { b.StopTimer(); m.total += processCPU() - m.began }

// report gives the CPU time, of all cores, of one operation: the clock on the wall does not see how many cores worked.
func (m *meter) report(b *testing.B) {
	b.ReportMetric(float64(m.total.Nanoseconds())/float64(b.N), "cpu-ns/op")
}
