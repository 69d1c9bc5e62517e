package vpn

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpSocket is a socket of one address family. Any goroutine may send.
type udpSocket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	six     bool
	segment atomic.Bool // UDP_SEGMENT works
	sends   sync.Pool   // of *udpSend
}

// udpSend is what one call of sendmsg is made of.
type udpSend struct {
	header  unix.Msghdr
	name    unix.RawSockaddrInet6
	vectors [maxSegments]unix.Iovec
	control controlBuffer

	sendmsg func(fd uintptr) bool // of the poller
	try     func(fd uintptr)
	errno   syscall.Errno
}

// maxPayload is the greatest UDP payload under IPv4.
const maxPayload = 1<<16 - 1 - 20 - 8

func newUDPSend() *udpSend {
	x := new(udpSend)
	x.sendmsg = func(fd uintptr) bool {
		for {
			_, _, errno := unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&x.header)), unix.MSG_DONTWAIT)
			if x.errno = errno; errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	}
	x.try = func(fd uintptr) { x.sendmsg(fd) }
	return x
}

// send sends messages, runs of them as one datagram that is to be cut if segment is set. It ends at the first error.
func (s *udpSocket) send(messages [][]byte, to *udpEndpoint, segment bool) error {
	x := s.sends.Get().(*udpSend)
	defer s.sends.Put(x)
	if err := x.address(to); err != nil {
		return err
	}
	for len(messages) > 0 {
		n := 1
		if segment {
			n = equalSizes(messages)
		}
		x.fill(messages[:n], to)
		err := s.raw.Control(x.try) // unlike Write it does not wait for other senders
		if err == nil && x.errno == unix.EAGAIN {
			err = s.raw.Write(x.sendmsg)
		}
		runtime.KeepAlive(messages)
		if err == nil && x.errno != 0 {
			err = os.NewSyscallError("sendmsg", x.errno)
		}
		if err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// equalSizes is how many of the messages one UDP_SEGMENT can send: all of one size, the last perhaps shorter.
func equalSizes(messages [][]byte) int {
	size, total := len(messages[0]), 0
	for i, m := range messages {
		total += len(m)
		if i == maxSegments || total > maxPayload || len(m) > size {
			return max(i, 1)
		}
		if len(m) < size {
			return i + 1
		}
	}
	return len(messages)
}

// address sets the destination.
func (x *udpSend) address(to *udpEndpoint) error {
	x.header.Name = (*byte)(unsafe.Pointer(&x.name))
	if addr := to.Addr(); addr.Is4() {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&x.name))
		*four = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		putNetworkPort(&four.Port, to.Port())
		x.header.Namelen = unix.SizeofSockaddrInet4
		return nil
	}
	scope, err := scopeOf(to.Addr())
	if err != nil {
		return err
	}
	x.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Scope_id: scope}
	putNetworkPort(&x.name.Port, to.Port())
	x.header.Namelen = unix.SizeofSockaddrInet6
	return nil
}

func putNetworkPort(p *uint16, port uint16) { be.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port) }

// scopeOf is the interface that a link-local address is valid at, by number or name.
func scopeOf(addr netip.Addr) (uint32, error) {
	zone := addr.Zone()
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

// fill sets what is sent, from which source, and how it is cut. Messages side by side become one piece.
func (x *udpSend) fill(messages [][]byte, to *udpEndpoint) {
	n := 0
	var end uintptr
	for _, m := range messages {
		begin := uintptr(unsafe.Pointer(&m[0]))
		if n > 0 && begin == end {
			v := &x.vectors[n-1]
			v.SetLen(int(v.Len) + len(m))
		} else {
			x.vectors[n].Base = &m[0]
			x.vectors[n].SetLen(len(m))
			n++
		}
		end = begin + uintptr(len(m))
	}
	x.header.Iov = &x.vectors[0]
	x.header.SetIovlen(n)
	control := 0
	if to.src.IsValid() {
		control += x.source(to)
	}
	if len(messages) > 1 {
		size := (*uint16)(x.put(control, unix.SOL_UDP, unix.UDP_SEGMENT, 2))
		*size = uint16(len(messages[0]))
		control += unix.CmsgSpace(2)
	}
	x.header.Control = nil
	if control > 0 {
		x.header.Control = &x.control.bytes()[0]
	}
	x.header.SetControllen(control)
}

// source asks for the source address and interface and returns how much of control that takes.
func (x *udpSend) source(to *udpEndpoint) int {
	if to.src.Is4() {
		info := (*unix.Inet4Pktinfo)(x.put(0, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo))
		*info = unix.Inet4Pktinfo{Ifindex: to.iface, Spec_dst: to.src.As4()}
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	info := (*unix.Inet6Pktinfo)(x.put(0, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo))
	*info = unix.Inet6Pktinfo{Ifindex: uint32(to.iface), Addr: to.src.As16()}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// put makes a control message of n bytes and returns where they go.
func (x *udpSend) put(at int, level, kind int32, n int) unsafe.Pointer {
	b := x.control.bytes()[at : at+unix.CmsgSpace(n)]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return unsafe.Pointer(&b[unix.CmsgLen(0)])
}
