package vpn

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	cloneDevice = "/dev/net/tun"
	queueFlags  = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	tcpOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	udpOffloads = unix.TUN_F_USO4 | unix.TUN_F_USO6 // since Linux 6.2
)

// tunQueues are the queues of an interface. A packet that the kernel routes to it comes out of the queue by which
// packets of the same flow came in, else out of any.
type tunQueues struct {
	mu    sync.Mutex // guards the fields below
	spare []int      // descriptors that belong to this network namespace, but to no interface yet
	files []*os.File // of the queues but the first, which the device closes
}

// createTUN creates an interface whose first queue is the device. Kernels and interfaces made by somebody else that
// do not allow more queues have one.
func createTUN(name string, mtu int) (tun.Device, *tunQueues, error) {
	q := new(tunQueues)
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	// Without IFF_TUN_EXCL this would become a queue of another gateway's interface.
	if err := attachQueue(fd, name, queueFlags|unix.IFF_TUN_EXCL); err != nil {
		unix.Close(fd)
		device, err := tun.CreateTUN(name, mtu)
		return device, q, err
	}
	file := os.NewFile(uintptr(fd), cloneDevice)
	device, err := tun.CreateTUNFromFile(file, mtu)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	for range shards() - 1 {
		fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			break // fewer queues will do
		}
		q.spare = append(q.spare, fd)
	}
	return device, q, nil
}

func attachQueue(fd int, name string, flags uint16) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// attach opens up to n more queues of an interface.
func (q *tunQueues) attach(name string, n int) []*os.File {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.spare) > 0 && len(q.files) < n {
		if attachQueue(q.spare[0], name, queueFlags) != nil {
			break
		}
		// Not before it is attached: the poller would not hear of packets.
		q.files = append(q.files, os.NewFile(uintptr(q.spare[0]), cloneDevice))
		q.spare = q.spare[1:]
	}
	return q.files
}

func (q *tunQueues) close() (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, fd := range q.spare {
		err = errors.Join(err, unix.Close(fd))
	}
	for _, f := range q.files {
		err = errors.Join(err, f.Close())
	}
	q.spare, q.files = nil, nil
	return err
}

var _ superTUN = (*TUN)(nil)

// superQueues implements superTUN.
func (t *TUN) superQueues(n int) (queues []superQueue, udp bool) {
	first := t.Device.File()
	name, err := t.Name()
	if err != nil || !hasVnet(first) {
		return nil, false
	}
	for _, f := range append([]*os.File{first}, t.queues.attach(name, n-1)...) {
		q, err := newTUNQueue(f)
		if err != nil {
			return nil, false
		}
		queues = append(queues, q)
	}
	control(first, func(fd int) {
		udp = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcpOffloads|udpOffloads) == nil
	})
	return queues, udp
}

// hasVnet reports whether vnet headers stand before packets.
func hasVnet(f *os.File) (is bool) {
	control(f, func(fd int) {
		request, err := unix.NewIfreq("")
		is = err == nil && unix.IoctlIfreq(fd, unix.TUNGETIFF, request) == nil && request.Uint16()&unix.IFF_VNET_HDR != 0
	})
	return is
}

// tunQueue is one queue. Its errors but those of the system call say that it is closed.
type tunQueue struct {
	raw syscall.RawConn

	readv  func(fd uintptr) bool // of the poller
	try    func(fd uintptr)
	buffer []byte
	n      int
	errno  error
}

func newTUNQueue(f *os.File) (*tunQueue, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &tunQueue{raw: raw}
	q.readv = func(fd uintptr) bool {
		for {
			q.n, q.errno = unix.Read(int(fd), q.buffer)
			if q.errno != unix.EINTR {
				return q.errno != unix.EAGAIN
			}
		}
	}
	q.try = func(fd uintptr) { q.readv(fd) }
	return q, nil
}

// read implements superQueue.
func (q *tunQueue) read(b []byte, wait bool) (int, error) {
	q.buffer = b
	var err error
	if wait {
		err = q.raw.Read(q.readv)
	} else {
		err = q.raw.Control(q.try)
	}
	switch {
	case err != nil:
		return 0, os.ErrClosed
	case q.errno == unix.EAGAIN:
		return 0, nil
	}
	return max(q.n, 0), queueError("read", q.errno)
}

// writer implements superQueue.
func (q *tunQueue) writer() func(*[vnetSize]byte, [][]byte) error {
	var vectors [maxSegments + 1]unix.Iovec
	var n int
	var errno syscall.Errno
	writev := func(fd uintptr) bool {
		for {
			_, _, errno = unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vectors)), uintptr(n))
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	}
	try := func(fd uintptr) { writev(fd) }
	return func(header *[vnetSize]byte, pieces [][]byte) error {
		vectors[0].Base = &header[0]
		vectors[0].SetLen(vnetSize)
		for i, p := range pieces {
			vectors[i+1].Base = &p[0]
			vectors[i+1].SetLen(len(p))
		}
		n = 1 + len(pieces)
		err := q.raw.Control(try) // unlike Write it does not wait for other writers
		if err == nil && errno == unix.EAGAIN {
			err = q.raw.Write(writev)
		}
		if err != nil {
			return os.ErrClosed
		}
		if errno != 0 {
			return queueError("writev", errno)
		}
		return nil
	}
}

// queueError makes os.ErrClosed of what a queue says whose interface was taken away.
func queueError(call string, err error) error {
	if errors.Is(err, unix.EBADFD) {
		return os.ErrClosed
	}
	return os.NewSyscallError(call, err)
}

// control calls fn with the descriptor of an open file.
func control(f *os.File, fn func(fd int)) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { fn(int(fd)) })
	}
}
