package cluster

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// someCells draws cells as a few authors might have written them: every
// combination of lives, ranks, fields and equal times.
func someCells(t *rapid.T) []cell {
	n := rapid.IntRange(1, 12).Draw(t, "cells")
	cells := make([]cell, n)
	for i := range cells {
		c := cell{
			field: rapid.SampledFrom([]string{"", "name", "off/1", "off/2"}).Draw(t, "field"),
			life:  rapid.Uint64Range(1, 5).Draw(t, "life"),
			stamp: stamp{
				rapid.Uint64Range(1, 4).Draw(t, "time"),
				authorOf(testNode(rapid.IntRange(0, 2).Draw(t, "node")), rapid.Uint64Range(0, 1).Draw(t, "incarnation")),
			},
			seq:   uint64(i) + 1,
			value: []byte(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "value")),
		}
		if len(c.field) > 4 {
			c.rank = rapid.Uint64Range(0, 3).Draw(t, "rank")
		}
		var err error
		if cells[i], err = c.seal(); err != nil {
			t.Fatal(err)
		}
	}
	return cells
}

func merged(cells ...cell) *entity {
	e := &entity{}
	for _, c := range cells {
		e.merge(c)
	}
	return e
}

func (e *entity) hash(t *rapid.T) string {
	b, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

// TestMergeLaws: any order, any number, any grouping of the same cells is one state.
func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cells := someCells(t)
		want := merged(cells...).hash(t)
		if got := merged(rapid.Permutation(cells).Draw(t, "order")...).hash(t); got != want {
			t.Fatal("not commutative")
		}
		if got := merged(append(cells, cells...)...).hash(t); got != want {
			t.Fatal("not idempotent")
		}
		cut := rapid.IntRange(0, len(cells)).Draw(t, "cut")
		left, right := merged(cells[:cut]...), merged(cells[cut:]...)
		if got := merged(append(right.clone().cells, left.cells...)...).hash(t); got != want {
			t.Fatal("not associative")
		}
	})
}

// TestMergeAccounts: what merge says was taken and gone adds up to what is there.
func TestMergeAccounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, there := &entity{}, map[uint64]bool{}
		for _, c := range someCells(t) {
			taken, gone := e.merge(c)
			if taken {
				there[c.seq] = true
			}
			for _, g := range gone {
				if !there[g.seq] {
					t.Fatal("gone before it came")
				}
				delete(there, g.seq)
			}
			if len(there) != len(e.cells) {
				t.Fatalf("%d cells, want %d", len(e.cells), len(there))
			}
		}
	})
}

func TestCellRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, c := range someCells(t) {
			got, err := openCell(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if got.compare(&c) != 0 || got.field != c.field || got.seq != c.seq || !bytes.Equal(got.value, c.value) {
				t.Fatalf("got %+v, want %+v", got, c)
			}
		}
	})
}

// TestUnknownKeysStay: a cell of a newer version keeps what we cannot read.
func TestUnknownKeysStay(t *testing.T) {
	a := authorOf(testNode(0), 1)
	raw, err := encoder.Marshal(map[int]any{1: "name", 2: 1, 4: 5, 5: a[:], 6: 1, 8: []byte("x"), 77: "future"})
	check(t, err)
	c, err := openCell(raw)
	check(t, err)
	b, err := merged(c).encode()
	check(t, err)
	e, err := decodeEntity(b)
	check(t, err)
	if !bytes.Equal(e.cells[0].raw, raw) {
		t.Error("the cell was changed")
	}
}

// TestEditsSurviveABadClock repeats the measurement of DESIGN section 4: sixteen
// writers edit fifty fields, one of them with a clock an hour fast. An edit whose
// writer saw the value must win over it.
func TestEditsSurviveABadClock(t *testing.T) {
	const writers, fields, edits = 16, 50, 20_000
	rnd := rand.New(rand.NewPCG(1, 2))
	wall := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	clocks := make([]*clock, writers)
	at := wall
	for i := range clocks {
		offset := time.Duration(0)
		if i == 0 {
			offset = time.Hour
		}
		clocks[i] = newClock(func() time.Time { return at.Add(offset) }, 0)
	}
	e := &entity{}
	lost := 0
	for i := range edits {
		at = at.Add(10 * time.Millisecond)
		w := rnd.IntN(writers)
		field := fmt.Sprint("f", rnd.IntN(fields))
		now, _ := clocks[w].next()
		c := cell{field: field, stamp: stamp{now, authorOf(testNode(w), 1)}, seq: uint64(i) + 1}
		if old := e.get(field); old != nil {
			c.over = old.history()
			c.stamp.time = max(c.stamp.time, old.stamp.time+1)
		}
		c, err := c.seal()
		check(t, err)
		if taken, _ := e.merge(c); !taken {
			lost++
		}
		for _, o := range clocks {
			o.see(c.stamp.time)
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d edits lost that had seen the value", lost, edits)
	}
	now, _ := clocks[1].next()
	if ahead := time.UnixMilli(int64(now >> 16)).Sub(at); ahead > maxOffset+time.Millisecond {
		t.Errorf("an honest clock is %v ahead", ahead)
	}
}

func TestClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wall := time.UnixMilli(1_000_000)
		c := newClock(func() time.Time { return wall }, 0)
		last := uint64(0)
		top := wall
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				wall = wall.Add(time.Duration(rapid.IntRange(-2000, 2000).Draw(t, "ms")) * time.Millisecond)
				if wall.After(top) {
					top = wall
				}
			case 1:
				c.see(wallTime(wall.Add(time.Duration(rapid.IntRange(-5000, 3_600_000).Draw(t, "ahead")) * time.Millisecond)))
			}
			n, _ := c.next()
			if n <= last {
				t.Fatalf("%d after %d", n, last)
			}
			if n > wallTime(top.Add(maxOffset))+100 {
				t.Fatal("beyond the bound")
			}
			last = n
		}
	})
}
