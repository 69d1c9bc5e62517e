package vpn

import (
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// udpReceiver reads one socket. It belongs to one goroutine.
type udpReceiver struct {
	socket    *udpSocket
	messages  [segmentBuffers]mmsghdr
	vectors   [segmentBuffers]unix.Iovec
	names     [segmentBuffers]unix.RawSockaddrInet6
	control   [segmentBuffers]controlBuffer
	endpoints [1 << endpointBits]*udpEndpoint // made before, by hash

	recvmmsg func(fd uintptr) bool // of the poller
	want, n  int
	errno    syscall.Errno
}

// mmsghdr is struct mmsghdr (linux/socket.h).
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// controlBuffer has room for packet information and the size of segments.
type controlBuffer [16]uint64

func (c *controlBuffer) bytes() *[128]byte { return (*[128]byte)(unsafe.Pointer(c)) }

// Addresses of that many devices are found again without allocating.
const endpointBits = 8

func newUDPReceiver(s *udpSocket) *udpReceiver {
	r := &udpReceiver{socket: s}
	r.recvmmsg = func(fd uintptr) bool {
		for {
			n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.messages)), uintptr(r.want), unix.MSG_DONTWAIT, 0, 0)
			if r.n, r.errno = int(n), errno; errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	}
	return r
}

// receive implements segmentSocket.
func (r *udpReceiver) receive(batch []segments) (int, error) {
	r.want = min(len(batch), segmentBuffers)
	for i := range r.want {
		r.vectors[i].Base = &batch[i].buffer[0]
		r.vectors[i].SetLen(len(batch[i].buffer))
		m := &r.messages[i]
		m.Name, m.Namelen = (*byte)(unsafe.Pointer(&r.names[i])), unix.SizeofSockaddrInet6
		m.Iov, m.Control = &r.vectors[i], &r.control[i].bytes()[0]
		m.SetIovlen(1)
		m.SetControllen(len(r.control[i].bytes()))
	}
	if err := r.socket.raw.Read(r.recvmmsg); err != nil {
		return 0, err
	}
	if r.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", r.errno)
	}
	for i := range r.n {
		r.take(i, &batch[i])
	}
	return r.n, nil
}

// take tells what the i-th message read is. One that was cut off, by whatever mistake, counts as empty.
func (r *udpReceiver) take(i int, s *segments) {
	m := &r.messages[i]
	s.n = int(m.n)
	if m.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		s.n = 0
	}
	s.size = max(s.n, 1)
	e := udpEndpoint{AddrPort: r.sender(i)}
	control := r.control[i].bytes()[:m.Controllen]
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			if size := *(*int32)(unsafe.Pointer(&data[0])); size > 0 {
				s.size = int(size)
			}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			e.src, e.iface = netip.AddrFrom4(info.Spec_dst), info.Ifindex
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			e.src, e.iface = netip.AddrFrom16(info.Addr), int32(info.Ifindex)
		}
		control = rest
	}
	s.from = r.endpoint(&e)
}

func (r *udpReceiver) sender(i int) netip.AddrPort {
	six := &r.names[i]
	if r.socket.six {
		addr := netip.AddrFrom16(six.Addr)
		if six.Scope_id != 0 {
			addr = addr.WithZone(strconv.Itoa(int(six.Scope_id)))
		}
		return netip.AddrPortFrom(addr, networkPort(&six.Port))
	}
	four := (*unix.RawSockaddrInet4)(unsafe.Pointer(six))
	return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), networkPort(&four.Port))
}

// networkPort reads the port of a socket address.
func networkPort(p *uint16) uint16 { return be.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// endpoint returns what is equal to e.
func (r *udpReceiver) endpoint(e *udpEndpoint) conn.Endpoint {
	a := e.Addr().As16()
	h := (le.Uint64(a[8:]) ^ le.Uint64(a[:])<<1 ^ uint64(e.Port())<<16) * 0x9e3779b97f4a7c15 >> (64 - endpointBits)
	if r.endpoints[h] == nil || *r.endpoints[h] != *e {
		made := *e
		r.endpoints[h] = &made
	}
	return r.endpoints[h]
}

// copyOut is a conn.ReceiveFunc, for those who do not know segments. One goroutine calls it at a time.
func (r *udpReceiver) copyOut() conn.ReceiveFunc {
	var batch, rest, left []segments // left are those of rest, a copy of batch, with datagrams to give
	return func(buffers [][]byte, sizes []int, endpoints []conn.Endpoint) (n int, err error) {
		if batch == nil {
			batch, rest = makeSegments(), make([]segments, segmentBuffers)
		}
		if len(left) == 0 {
			if n, err = r.receive(batch); err != nil {
				return 0, err
			}
			left = rest[:copy(rest, batch[:n])]
		}
		for n = 0; n < len(buffers) && len(left) > 0; n++ {
			s := &left[0]
			sizes[n] = copy(buffers[n], s.buffer[:min(s.size, s.n)])
			endpoints[n] = s.from
			if s.n > s.size {
				s.buffer, s.n = s.buffer[s.size:], s.n-s.size
			} else {
				left = left[1:]
			}
		}
		return n, nil
	}
}
