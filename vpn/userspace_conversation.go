package vpn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// userspaceLimits bound what devices can make a gateway hold.
type userspaceLimits struct {
	conversations int           // all devices; each takes one descriptor and two buffers
	perDevice     int           // one device address
	handshakes    int           // connections being made; further SYNs are dropped, devices send them again
	dials         int           // of these, one device address; further SYNs are refused
	dial          time.Duration // until a destination has answered
	idle          time.Duration // neither direction had data
}

var defaultUserspaceLimits = userspaceLimits{
	conversations: 4096,
	perDevice:     256,
	handshakes:    1024,
	dials:         64,
	dial:          10 * time.Second,
	idle:          2*time.Hour + 4*time.Minute, // RFC 5382 REQ-5
}

const (
	spliceBuffer     = 16 << 10  // bytes, each direction
	stackBuffer      = 256 << 10 // the same, of the stack towards the device, to begin with
	leastStackBuffer = 4 << 10
	mostStackBuffer  = 1 << 20 // what it may grow to
)

// load is what a device address has.
type load struct {
	talking int // conversations, those being dialed included
	dialing int // those that are not completed or refused yet
}

// answer decides on a device's SYN: it is refused with RST, or the destination is
// dialed, and only then the device's handshake completed, so that the device sees
// what it would see without a gateway. The stack calls it in a goroutine of its own.
func (u *Userspace) answer(r *tcp.ForwarderRequest) {
	id := r.ID()
	device := fromStack(id.RemoteAddress)
	destination := netip.AddrPortFrom(fromStack(id.LocalAddress), id.LocalPort)
	if !forwardable(destination.Addr(), u.own) || !u.begin(device) {
		u.refused.Add(1)
		r.Complete(true)
		return
	}
	defer u.end(device)
	c, err := u.connect(r, destination)
	u.answered(device)
	if err != nil {
		u.failed.Add(1)
		u.log.Debug("connection not made", "device", device, "destination", destination, "error", err)
		return
	}
	u.dialed.Add(1)
	c.run(u.ctx, u.limits.idle)
}

// connect dials a destination and then completes the device's handshake, or refuses it.
func (u *Userspace) connect(r *tcp.ForwarderRequest, destination netip.AddrPort) (c conversation, err error) {
	ctx, cancel := context.WithTimeout(u.ctx, u.limits.dial)
	host, err := u.dial(ctx, "tcp", destination.String())
	cancel()
	if err != nil {
		r.Complete(true)
		return c, fmt.Errorf("dial: %w", err)
	}
	var queue waiter.Queue
	endpoint, failure := r.CreateEndpoint(&queue)
	r.Complete(failure != nil)
	if failure != nil {
		reset(host)
		return c, fmt.Errorf("device went away: %s", failure)
	}
	return conversation{device: gonet.NewTCPConn(&queue, endpoint), endpoint: endpoint, host: host}, nil
}

// begin counts a conversation in, if there may be one more.
func (u *Userspace) begin(device netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.byDevice[device]
	if u.closed || u.talking >= u.limits.conversations || l.talking >= u.limits.perDevice || l.dialing >= u.limits.dials {
		return false
	}
	u.talking++
	u.byDevice[device] = load{l.talking + 1, l.dialing + 1}
	u.wg.Add(1)
	return true
}

// answered ends the dialing of a conversation.
func (u *Userspace) answered(device netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.byDevice[device]
	u.byDevice[device] = load{l.talking, l.dialing - 1}
}

func (u *Userspace) end(device netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.talking--
	if l := u.byDevice[device]; l.talking > 1 {
		u.byDevice[device] = load{l.talking - 1, l.dialing}
	} else {
		delete(u.byDevice, device)
	}
	u.wg.Done()
}

// forwardable reports whether devices may connect to dst by way of the host. What
// means the host itself, or only its link, they may not, whatever its notation;
// nor own, the gateway's inner addresses.
func forwardable(dst netip.Addr, own []netip.Addr) bool {
	for _, a := range own {
		if dst == a {
			return false
		}
	}
	dst = dst.Unmap()
	switch {
	case !dst.IsValid(), dst.IsUnspecified(), dst.IsLoopback(), dst.IsMulticast(), dst.IsLinkLocalUnicast():
		return false
	case dst.Is4():
		b := dst.As4()
		return b[0] != 0 && b != [4]byte{255, 255, 255, 255} // RFC 1122 section 3.2.1.3
	}
	b := dst.As16()
	return [12]byte(b[:12]) != [12]byte{} // ::/96, IPv4-compatible, RFC 4291 section 2.5.5.1
}

// conversation is a device's connection and the host's that stands for it.
type conversation struct {
	device   *gonet.TCPConn
	endpoint tcpip.Endpoint // of device
	host     net.Conn
}

// run copies both ways until both have ended, one has failed, there was no data
// for the time idle, or ctx is done. An end of data is passed on as such, any
// other end as RST.
func (c conversation) run(ctx context.Context, idle time.Duration) {
	defer c.device.Close()
	defer c.host.Close()
	defer context.AfterFunc(ctx, c.abort)()
	timer := time.AfterFunc(idle, c.abort)
	defer timer.Stop()

	var g errgroup.Group
	alive := func() { timer.Reset(idle) }
	g.Go(func() error { return c.send(c.host, c.device, alive) })
	g.Go(func() error { return c.send(c.device, c.host, alive) })
	_ = g.Wait() // both ends have been told
}

// send copies one direction.
func (c conversation) send(dst, src net.Conn, alive func()) error {
	err := copyData(dst, src, alive)
	if err == nil {
		err = closeWrite(dst)
	}
	if err != nil {
		c.abort()
	}
	return err
}

// copyData copies until the end of src's data; alive is called as there is some.
func copyData(dst io.Writer, src io.Reader, alive func()) error {
	buf := make([]byte, spliceBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			alive()
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// abort ends both connections with RST.
func (c conversation) abort() {
	c.endpoint.Abort()
	reset(c.host)
}

// reset closes a host's connection with RST where it can do that.
func reset(host net.Conn) {
	if l, ok := host.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails if closed already, which is as well
	}
	host.Close()
}

// closeWrite ends dst's direction of sending, or dst where it cannot do that.
func closeWrite(dst net.Conn) error {
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return dst.Close()
}

func fromStack(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
