package labtest

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Ping is ping(8) running on a node.
type Ping struct {
	node     *Node
	interval time.Duration
	process  *Process
}

// Ping sends an echo request to target every interval (at least 2 ms) until
// [Ping.Stop] or the end of the test.
func (n *Node) Ping(target netip.Addr, interval time.Duration) *Ping {
	n.lab.tb.Helper()
	n.lab.pings++
	name := "ping" + strconv.Itoa(n.lab.pings)
	seconds := strconv.FormatFloat(interval.Seconds(), 'f', 3, 64)
	return &Ping{n, interval, n.Start(name, nil, "ping", "-n", "-D", "-O", "-i", seconds, target.String())}
}

// PingOnce sends one echo request and returns after how long the answer came.
// No answer within limit is an error. It may be called from any goroutine.
func (n *Node) PingOnce(target netip.Addr, limit time.Duration) (time.Duration, error) {
	seconds := strconv.FormatFloat(limit.Seconds(), 'f', 3, 64)
	out, err := n.Try("", "ping", "-n", "-D", "-c", "1", "-W", seconds, target.String())
	if err != nil {
		return 0, fmt.Errorf("no answer from %v: %w", target, err)
	}
	log := parsePing(out, limit)
	if len(log.Replies) == 0 {
		return 0, fmt.Errorf("no answer from %v in %q", target, out)
	}
	return log.Replies[0].RTT, nil
}

// Log returns what the ping has seen so far.
func (p *Ping) Log() PingLog { return parsePing(p.process.Log(), p.interval) }

// Stop ends the ping and returns what it saw.
func (p *Ping) Stop() PingLog {
	p.process.wanted = true
	p.process.Signal(syscall.SIGCONT)
	p.process.Signal(syscall.SIGINT)
	select {
	case <-p.process.done:
	case <-time.After(stopLimit):
		p.process.Kill()
	}
	return p.Log()
}

// PingLog is what a ping saw, in order of time.
type PingLog struct {
	Replies    []Reply
	Lost       []time.Time // when those were sent that have no answer
	Duplicates int         // answers to what was answered before
	Errors     int         // answers by ICMP errors
}

// Reply is one answer.
type Reply struct {
	Seq int // of the request; from 1, wraps at 65536
	At  time.Time
	RTT time.Duration
}

var (
	replyLine = regexp.MustCompile(`^\[(\d+\.\d+)\] \d+ bytes from \S+ icmp_seq=(\d+) .*time=([\d.]+) ms( \(DUP!\))?`)
	openLine  = regexp.MustCompile(`^\[(\d+\.\d+)\] no answer yet for icmp_seq=(\d+)`)
	errorLine = regexp.MustCompile(`^\[(\d+\.\d+)\] From \S+ icmp_seq=(\d+) `)
)

// pingGrace is how long an answer may be under way when a ping is stopped.
const pingGrace = 250 * time.Millisecond

// parsePing reads the output of `ping -D -O -i interval`, of at most 65535
// requests: sequence numbers are taken as unique. Lines that it does not know,
// such as a last one that is not complete, are passed over.
//
// A request whose answer was not there when the next one left is announced by
// "no answer yet"; it is lost unless its answer comes later. One that had less
// than [pingGrace] until the end of the output is not judged.
func parsePing(text string, interval time.Duration) (log PingLog) {
	answered := make(map[int]bool)
	type request struct {
		seq  int
		sent time.Time
	}
	var open []request
	var end time.Time
	for line := range strings.Lines(text) {
		if m := replyLine.FindStringSubmatch(line); m != nil {
			r, ok := parseReply(m[1], m[2], m[3])
			if ok {
				end = r.At
			}
			switch {
			case !ok:
			case m[4] != "" || answered[r.Seq]:
				log.Duplicates++
			default:
				answered[r.Seq] = true
				log.Replies = append(log.Replies, r)
			}
		} else if m := openLine.FindStringSubmatch(line); m != nil {
			if r, ok := parseReply(m[1], m[2], "0"); ok {
				open = append(open, request{r.Seq, r.At.Add(-interval)})
				end = r.At
			}
		} else if m := errorLine.FindStringSubmatch(line); m != nil {
			log.Errors++
			if r, ok := parseReply(m[1], m[2], "0"); ok {
				open = append(open, request{r.Seq, r.At})
				end = r.At
			}
		}
	}
	for _, r := range open {
		if !answered[r.seq] && end.Sub(r.sent) >= pingGrace {
			answered[r.seq] = true // announced twice, lost once
			log.Lost = append(log.Lost, r.sent)
		}
	}
	return log
}

// parseReply reads the figures of a line.
func parseReply(at, seq, ms string) (r Reply, ok bool) {
	seconds, micros, _ := strings.Cut(at, ".")
	s, err1 := strconv.ParseInt(seconds, 10, 64)
	us, err2 := strconv.ParseInt(micros, 10, 64)
	n, err3 := strconv.Atoi(seq)
	rtt, err4 := strconv.ParseFloat(ms, 64)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || len(micros) != 6 {
		return Reply{}, false
	}
	return Reply{n, time.Unix(s, us*1000), time.Duration(rtt * float64(time.Millisecond))}, true
}

// LostSince counts the lost requests that were sent at or after t.
func (l PingLog) LostSince(t time.Time) (n int) {
	for _, sent := range l.Lost {
		if !sent.Before(t) {
			n++
		}
	}
	return n
}

// Gap returns the longest silence between two answers that follow each other,
// of those silences that began or ended between from and until. Back says
// whether there was an answer at all after from; if not, the gap is that from
// the last answer to until.
func (l PingLog) Gap(from, until time.Time) (gap time.Duration, back bool) {
	var last time.Time
	for _, r := range l.Replies {
		if r.At.After(until) && last.After(until) {
			break
		}
		if r.At.After(from) {
			back = true
			if !last.IsZero() {
				gap = max(gap, r.At.Sub(last))
			}
		}
		last = r.At
	}
	if !back && !last.IsZero() {
		gap = until.Sub(last)
	}
	return gap, back
}

// FirstAfter returns the time of the first answer to a request that was sent
// after t.
func (l PingLog) FirstAfter(t time.Time) (at time.Time, ok bool) {
	for _, r := range l.Replies {
		if r.At.Add(-r.RTT).After(t) {
			return r.At, true
		}
	}
	return time.Time{}, false
}
