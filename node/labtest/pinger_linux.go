package labtest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A Pinger sends echo requests through the tunnel of a [Device].
type Pinger struct {
	device   *Device
	target   netip.Addr
	interval time.Duration
	stop     chan struct{}
	done     chan struct{} // closed when it has ended

	mu   sync.Mutex // guards the fields below
	sent []probe    // by sequence number
	dup  int
}

// probe is one echo request.
type probe struct {
	at  time.Time
	rtt time.Duration // 0: no answer yet
}

// Ping sends an echo request of 56 bytes to target now and every interval,
// until [Pinger.Stop] or the end of the test. A device has one pinger at a
// time. It may be called from any goroutine.
func (d *Device) Ping(target netip.Addr, interval time.Duration) *Pinger {
	p := &Pinger{device: d, target: target, interval: interval, stop: make(chan struct{}), done: make(chan struct{})}
	d.mu.Lock()
	d.pinger = p
	d.mu.Unlock()
	go p.run()
	return p
}

func (p *Pinger) run() {
	defer close(p.done)
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for {
		p.mu.Lock()
		seq := uint32(len(p.sent))
		p.sent = append(p.sent, probe{at: time.Now()})
		p.mu.Unlock()
		p.device.Send(echoRequest(p.device.Inner(), p.target, seq))
		select {
		case <-tick.C:
		case <-p.stop:
			return
		case <-p.device.lab.tb.Context().Done():
			return
		}
	}
}

// Stop ends the pinger, gives what is under way [pingGrace] to arrive, and
// returns what it saw. Stopped pingers of many devices wait beside each other
// if each is stopped from a goroutine of its own.
func (p *Pinger) Stop() PingLog {
	close(p.stop)
	<-p.done
	p.device.lab.Observe(pingGrace)
	return p.Log()
}

// Log returns what the pinger has seen so far.
func (p *Pinger) Log() (log PingLog) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for seq, s := range p.sent {
		switch {
		case s.rtt > 0:
			log.Replies = append(log.Replies, Reply{seq, s.at.Add(s.rtt), s.rtt})
		case now.Sub(s.at) >= pingGrace:
			log.Lost = append(log.Lost, s.at)
		}
	}
	slices.SortFunc(log.Replies, func(a, b Reply) int { return a.At.Compare(b.At) })
	log.Duplicates = p.dup
	return log
}

// Answered counts the answers to requests that were sent after t.
func (p *Pinger) Answered(t time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.sent) - 1; i >= 0 && p.sent[i].at.After(t); i-- {
		if p.sent[i].rtt > 0 {
			n++
		}
	}
	return n
}

// Echo packets here: 20 bytes of IPv4, 8 of ICMP, and a payload that begins
// with a sequence number of 32 bits and the sender's address.
const (
	echoSize    = 84
	echoPayload = 28
)

// arrived notes the answer in a packet, if it is one.
func (p *Pinger) arrived(packet []byte, now time.Time) {
	const reply = 0
	if len(packet) < echoSize || packet[0] != 0x45 || packet[9] != 1 || packet[20] != reply ||
		netip.AddrFrom4([4]byte(packet[12:])) != p.target {
		return
	}
	seq := int(binary.BigEndian.Uint32(packet[echoPayload:]))
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case seq >= len(p.sent):
	case p.sent[seq].rtt > 0:
		p.dup++
	default:
		p.sent[seq].rtt = max(1, now.Sub(p.sent[seq].at))
	}
}

// echoRequest returns an IPv4 packet with an ICMP echo request.
func echoRequest(src, dst netip.Addr, seq uint32) []byte {
	const request = 8
	b := make([]byte, echoSize)
	b[0], b[8], b[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(b[2:], echoSize)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	b[20] = request
	binary.BigEndian.PutUint16(b[26:], uint16(seq))
	binary.BigEndian.PutUint32(b[echoPayload:], seq)
	copy(b[echoPayload+4:], src.AsSlice())
	binary.BigEndian.PutUint16(b[22:], checksum(b[20:]))
	return b
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
