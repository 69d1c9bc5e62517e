package mesh

import (
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		e    evidence
		want finding
		wait time.Duration
	}{
		"heard":                       {evidence{silence: 100 * ms, witnesses: 1}, findAlive, 500 * ms},
		"heard, unlinked":             {evidence{silence: 100 * ms}, findAlive, 500 * ms},
		"heard, though serf fails it": {evidence{silence: 100 * ms, serfDead: true}, findAlive, 500 * ms},
		"far away":                    {evidence{silence: 900 * ms, rtt: 300 * ms}, findAlive, 300 * ms},
		"silent, no witness":          {evidence{silence: 600 * ms}, findDead, 0},
		"all silent at once":          {evidence{silence: 700 * ms, silent: 2}, findAlive, 300 * ms},
		"all silent for long":         {evidence{silence: 1000 * ms, silent: 2}, findDead, 0},
		"one of two died before":      {evidence{silence: 600 * ms, silent: 1, witnesses: 1}, findAsk, witnessTimeout},
		"silent, a witness":           {evidence{silence: 600 * ms, witnesses: 1}, findAsk, witnessTimeout},
		"witness is slow":             {evidence{silence: 700 * ms, witnesses: 2, asked: true, waited: 100 * ms, miss: 1}, findAlive, 100 * ms},
		"witness does not answer":     {evidence{silence: 800 * ms, witnesses: 2, asked: true, waited: 200 * ms, miss: 1}, findDead, 0},
		"witnesses miss it too":       {evidence{silence: 601 * ms, witnesses: 2, asked: true, waited: ms, miss: 2}, findDead, 0},
		"one hears it":                {evidence{silence: 700 * ms, witnesses: 2, asked: true, waited: 100 * ms, hear: 1, miss: 1}, findAlive, 400 * ms},
		"one heard it a while ago":    {evidence{silence: 1100 * ms, witnesses: 2, asked: true, waited: 500 * ms, hear: 1}, findAsk, witnessTimeout},
		"our link is the dead one":    {evidence{silence: 2 * time.Second, linked: true, witnesses: 1, asked: true, hear: 1}, findRelink, witnessAgain},
		"unlinked and failed in serf": {evidence{silence: time.Second, serfDead: true, witnesses: 1, asked: true, hear: 1}, findDead, 0},
	} {
		if got, wait := judge(c.e); got != c.want || wait != c.wait {
			t.Errorf("%s: finding %d, again in %v; want %d, %v", name, got, wait, c.want, c.wait)
		}
	}
}

func TestElection(t *testing.T) {
	low, mid, high := ID{1}, ID{2}, ID{3}
	at := func(e *election, ms time.Duration) (role, bool) { return e.decide(ms * time.Millisecond) }
	expect := func(what string, as, wantAs role, begin, want bool) {
		t.Helper()
		if as != wantAs || begin != want {
			t.Errorf("%s: role %d, begin %v", what, as, begin)
		}
	}
	e := election{self: mid}
	as, begin := at(&e, 1000)
	expect("listening", as, roleStarter, begin, false)
	e.hear(hint{role: roleStarter, id: high, count: 1}, 0)
	as, begin = at(&e, 1750)
	expect("the lowest", as, roleClaimer, begin, false)
	e.hear(hint{role: roleStarter, id: low, count: 1}, 1800*time.Millisecond)
	as, begin = at(&e, 1900)
	expect("a lower one comes too late", as, roleClaimer, begin, false)
	e.hear(hint{role: roleClaimer, id: high, count: 2}, 1900*time.Millisecond)
	as, begin = at(&e, 2100)
	expect("a higher claim does not count", as, roleClaimer, begin, true)
	e.hear(hint{role: roleClaimer, id: low, count: 2}, 2100*time.Millisecond)
	as, begin = at(&e, 2200)
	expect("a lower claim does", as, roleStarter, begin, false)
	as, begin = at(&e, 16000)
	expect("it still may come", as, roleStarter, begin, false)
	as, begin = at(&e, 17200)
	expect("it does not", as, roleClaimer, begin, false)

	e = election{self: mid}
	for i := range 1000 {
		e.hear(hint{role: roleStarter, id: ID{0, byte(i), byte(i >> 8)}, count: 1}, 0)
	}
	if len(e.others) > maxStarters {
		t.Errorf("%d starters are remembered", len(e.others))
	}
	e.hear(hint{role: roleStarter, id: ID{0, 1}, count: 1}, 2*time.Second) // replayed
	if as, _ = at(&e, 3100); as != roleClaimer {
		t.Error("a count that does not rise is taken for life")
	}
}

func TestPrefer(t *testing.T) {
	if low, high := (ID{1}), (ID{2}); !prefer(low, high) || prefer(high, low) || !prefer(low, low) {
		t.Error("the lower dialer is to win, and the newer of two")
	}
}
