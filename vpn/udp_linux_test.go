package vpn

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// openBind opens a bind and returns its functions and port.
func openBind(t *testing.T, shards int) (*udpBind, []conn.ReceiveFunc, uint16) {
	t.Helper()
	b := newBind(shards).(*udpBind)
	functions, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, functions, port
}

// inbox reads all of a bind's functions until it is closed.
type arrived struct {
	payload string
	from    conn.Endpoint
}

func inbox(t *testing.T, functions []conn.ReceiveFunc) <-chan arrived {
	got := make(chan arrived, 1000)
	for _, f := range functions {
		go func() {
			buffers, sizes, endpoints := makeBuffers(16), make([]int, 16), make([]conn.Endpoint, 16)
			for {
				n, err := f(buffers, sizes, endpoints)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				for i := range n {
					got <- arrived{string(buffers[i][:sizes[i]]), endpoints[i]}
				}
			}
		}()
	}
	return got
}

func next(t *testing.T, got <-chan arrived) arrived {
	t.Helper()
	select {
	case a := <-got:
		return a
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return arrived{}
	}
}

// What one bind sends the other one receives, in order, whatever the sizes are that the kernel cuts and merges.
func TestUDPBindCarriesEverySize(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, shards := range []int{1, 3} {
			t.Run(fmt.Sprint(host, " ", shards), func(t *testing.T) {
				a, _, _ := openBind(t, shards)
				b, functions, port := openBind(t, shards)
				got := inbox(t, functions)
				to, err := a.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
				if err != nil {
					t.Fatal(err)
				}
				var messages [][]byte
				add := func(n, size int) {
					block := bytes.Repeat([]byte{byte(len(messages))}, n*size) // side by side, as they are sealed
					for i := range n {
						block[i*size] = byte(i)
						messages = append(messages, block[i*size:(i+1)*size:(i+1)*size])
					}
				}
				add(1, 32)
				add(64, 1452)
				add(1, 99)
				add(129, 100)
				add(1, 1400)
				add(3, 1452)
				add(2, 32)
				add(1, maxPayload)
				if err := a.Send(messages, to); err != nil {
					t.Fatal(err)
				}
				for i, m := range messages {
					if x := next(t, got); x.payload != string(m) {
						t.Fatalf("message %d: %d bytes came, want %d", i, len(x.payload), len(m))
					} else if e := x.from.(*udpEndpoint); e.Addr() != netip.MustParseAddr(host) || e.SrcIP() != netip.MustParseAddr(host) {
						t.Fatalf("from %v to %v", e.AddrPort, e.SrcIP())
					}
				}
				b.Close()
			})
		}
	}
}

// An answer comes from the address that was asked, not from the one that the route would choose.
func TestUDPBindAnswersFromTheAddressAsked(t *testing.T) {
	b, functions, port := openBind(t, 2)
	got := inbox(t, functions)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), port)
	if _, err := c.WriteToUDPAddrPort([]byte("hello"), asked); err != nil {
		t.Fatal(err)
	}
	if err := b.Send([][]byte{[]byte("answer"), []byte("answer")}, next(t, got).from); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		buffer := make([]byte, 100)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := c.ReadFromUDPAddrPort(buffer)
		if err != nil || string(buffer[:n]) != "answer" || from != asked {
			t.Errorf("%q from %v, want it from %v; %v", buffer[:n], from, asked, err)
		}
	}
}

// A port belongs to one bind, though its own sockets share it.
func TestUDPBindHasItsPortAlone(t *testing.T) {
	b, functions, port := openBind(t, 4)
	if len(functions) != 8 {
		t.Errorf("%d functions", len(functions))
	}
	for _, other := range []conn.Bind{newBind(4), newBind(1), conn.NewStdNetBind()} {
		if _, _, err := other.Open(port); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%T: %v, want that the port is in use", other, err)
		}
	}
	if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Error(err)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
	if _, again, err := b.Open(port); err != nil || again != port {
		t.Errorf("opened again at %d: %v", again, err)
	}
}

func TestUDPBindCloses(t *testing.T) {
	b, functions, port := openBind(t, 2)
	sockets, families := b.segmentSockets()
	if len(sockets) != 4 || families != 2 {
		t.Fatalf("%d sockets of %d families", len(sockets), families)
	}
	ended := make(chan error)
	for _, f := range functions {
		go func() {
			_, err := f(makeBuffers(1), make([]int, 1), make([]conn.Endpoint, 1))
			ended <- err
		}()
	}
	time.Sleep(10 * time.Millisecond)
	b.Close()
	for range functions {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	for _, s := range sockets {
		if _, err := s.receive(makeSegments()); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	to, _ := b.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err := b.Send([][]byte{{1}}, to); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := b.Send([][]byte{{1}}, &conn.StdNetEndpoint{}); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Error(err)
	}
}

// Where nobody listens the host says so; that ends nothing.
func TestUDPBindSurvivesRefusals(t *testing.T) {
	b, functions, port := openBind(t, 1)
	got := inbox(t, functions)
	other, _, free := openBind(t, 1)
	other.Close()
	at := func(port uint16) conn.Endpoint {
		ep, err := b.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
		if err != nil {
			t.Fatal(err)
		}
		return ep
	}
	for range 3 {
		if err := b.Send([][]byte{{1}}, at(free)); err != nil {
			t.Errorf("send to a closed port: %v", err)
		}
	}
	if err := b.Send([][]byte{[]byte("alive")}, at(port)); err != nil || next(t, got).payload != "alive" {
		t.Error(err)
	}
}

// A card that cannot cut datagrams is asked once.
func TestUDPSegmentationIsGivenUp(t *testing.T) {
	var works atomic.Bool
	works.Store(true)
	var tries []bool
	send := func(segment bool) error {
		tries = append(tries, segment)
		if segment {
			return unix.EIO
		}
		return unix.ENETUNREACH
	}
	var disabled conn.ErrUDPGSODisabled
	if err := sendSegmented(&works, send); !errors.As(err, &disabled) || !errors.Is(disabled.RetryErr, unix.ENETUNREACH) {
		t.Errorf("%v", err)
	}
	if err := sendSegmented(&works, send); !errors.Is(err, unix.ENETUNREACH) || errors.As(err, &disabled) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(tries, []bool{true, false, false}) {
		t.Error(tries)
	}
	if err := sendSegmented(new(atomic.Bool), func(bool) error { return unix.EIO }); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
}

func TestEqualSizes(t *testing.T) {
	of := func(sizes ...int) (messages [][]byte) {
		for _, n := range sizes {
			messages = append(messages, make([]byte, n))
		}
		return messages
	}
	for _, test := range []struct {
		messages [][]byte
		want     int
	}{
		{of(1), 1},
		{of(9, 9, 9), 3},
		{of(9, 9, 8, 8), 3},
		{of(9, 8, 9), 2},
		{of(8, 9), 1},
		{of(maxPayload+100, 9), 1}, // refused by the kernel, but alone
		{of(slices.Repeat([]int{1452}, 70)...), 45},
		{of(slices.Repeat([]int{32}, 70)...), 64},
	} {
		if got := equalSizes(test.messages); got != test.want {
			t.Errorf("%d messages, first of %d bytes: %d, want %d", len(test.messages), len(test.messages[0]), got, test.want)
		}
	}
}
