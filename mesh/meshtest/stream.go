package meshtest

import (
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const window = 1 << 20

// pipe is one direction of a connection. The network's mutex guards it.
type pipe struct {
	net      *Network
	from, to *Host
	segments []segment
	size     int  // of all segments
	shut     bool // the writer wrote its last
	stale    bool // an end has moved: nothing passes any more
	lastAt   time.Time
	reader   error // why reads fail; nil: they do not
	writer   error // why writes fail
	changed  chan struct{}
}

// segment is what one Write wrote, or the end.
type segment struct {
	data []byte
	end  bool  // no more comes
	err  error // a reset
	at   time.Time
}

// wake makes who waits for the pipe look again.
func (p *pipe) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// connect makes a connection between two hosts and returns both ends. n.mu is
// held.
func (n *Network) connect(from *Host, fromAddr netip.AddrPort, to *Host, toAddr netip.AddrPort) (dialer, acceptor *conn) {
	there := &pipe{net: n, from: from, to: to, changed: make(chan struct{})}
	back := &pipe{net: n, from: to, to: from, changed: make(chan struct{})}
	n.pipes[there], n.pipes[back] = true, true
	dialer = &conn{net: n, in: back, out: there, local: fromAddr, remote: toAddr, readBy: newDeadline(), writeBy: newDeadline()}
	acceptor = &conn{net: n, in: there, out: back, local: toAddr, remote: fromAddr, readBy: newDeadline(), writeBy: newDeadline()}
	return dialer, acceptor
}

// send appends a segment. n.mu is held.
func (p *pipe) send(s segment) {
	s.at = time.Now().Add(p.net.latency)
	if s.at.Before(p.lastAt) {
		s.at = p.lastAt
	}
	p.lastAt = s.at
	p.segments = append(p.segments, s)
	p.size += len(s.data)
	p.wake()
}

// reset ends the pipe because the process on h is gone, or has closed it with
// bytes unread: at once at h, at the other end when word of it arrives. n.mu
// is held.
func (p *pipe) reset(h *Host) {
	gone := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	if p.from == h {
		p.writer = net.ErrClosed
		p.send(segment{err: gone})
	}
	if p.to == h {
		p.reader = net.ErrClosed
		p.segments, p.size = nil, 0
		if p.writer == nil {
			p.writer = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}
		}
	}
	p.wake()
	p.forget()
}

// forget removes a pipe of which nothing more is to come. n.mu is held.
func (p *pipe) forget() {
	if p.reader != nil && p.writer != nil {
		delete(p.net.pipes, p)
	}
}

// conn is one end of a connection.
type conn struct {
	net             *Network
	in, out         *pipe
	local, remote   netip.AddrPort
	readBy, writeBy *deadline
}

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) {
	for {
		if c.readBy.passed() {
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}
		c.net.mu.Lock()
		p := c.in
		if p.reader != nil {
			err := p.reader
			c.net.mu.Unlock()
			return 0, err
		}
		var wait time.Duration = -1
		if len(p.segments) > 0 && !p.stale && c.net.passes(p.from.addr, p.to.addr) {
			s := &p.segments[0]
			if wait = time.Until(s.at); wait <= 0 {
				n, err := p.take(b)
				c.net.mu.Unlock()
				return n, err
			}
		}
		changed := p.changed
		c.net.mu.Unlock()
		c.readBy.wait(changed, wait)
	}
}

// take reads from the first segment, which has arrived. n.mu is held.
func (p *pipe) take(b []byte) (int, error) {
	s := &p.segments[0]
	switch {
	case s.err != nil:
		p.reader = s.err
		p.writer = s.err
		p.wake()
		p.forget()
		return 0, s.err
	case s.end:
		p.reader = io.EOF
		p.forget()
		return 0, io.EOF
	}
	n := copy(b, s.data)
	s.data = s.data[n:]
	p.size -= n
	if len(s.data) == 0 {
		p.segments = p.segments[1:]
	}
	p.wake()
	return n, nil
}

// Write implements [net.Conn]. It waits while the window is full.
func (c *conn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		if c.writeBy.passed() {
			return written, &net.OpError{Op: "write", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}
		c.net.mu.Lock()
		p := c.out
		if p.writer != nil || p.shut {
			err := p.writer
			c.net.mu.Unlock()
			if err == nil {
				err = net.ErrClosed
			}
			return written, err
		}
		if room := window - p.size; room > 0 {
			chunk := b[written:min(len(b), written+room)]
			p.send(segment{data: append([]byte(nil), chunk...)})
			written += len(chunk)
			c.net.mu.Unlock()
			continue
		}
		changed := p.changed
		c.net.mu.Unlock()
		c.writeBy.wait(changed, -1)
	}
	return written, nil
}

// CloseWrite ends the outgoing direction, as of *net.TCPConn.
func (c *conn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.out.writer != nil {
		return c.out.writer
	}
	if !c.out.shut {
		c.out.shut = true
		c.out.send(segment{end: true})
	}
	return nil
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.out.writer == nil && !c.out.shut {
		c.out.shut = true
		c.out.send(segment{end: true})
	}
	c.out.writer = net.ErrClosed
	c.out.wake()
	c.out.forget()
	c.in.reader = net.ErrClosed
	if c.in.writer == nil {
		c.in.writer = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.EPIPE)}
	}
	c.in.segments, c.in.size = nil, 0
	c.in.wake()
	c.in.forget()
	return nil
}

// LocalAddr implements [net.Conn].
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error { c.readBy.set(t); return nil }

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(t time.Time) error { c.writeBy.set(t); return nil }
