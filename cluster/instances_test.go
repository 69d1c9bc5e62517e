package cluster

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestServingAfterASplit(t *testing.T) {
	at := func(i, second, limit int) Instance {
		return Instance{testNode(i), wallStart.Add(time.Duration(second) * time.Second), limit}
	}
	first := []Instance{at(0, 0, 3), at(1, 1, 3)}
	left, right := at(2, 20, 3), at(3, 10, 3) // each side admitted the last one
	got := Serving(append(first, left, right), 3)
	if want := []Node{testNode(0), testNode(1), testNode(3)}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Serving(append(first, left, right), 4); len(got) != 4 {
		t.Errorf("raised: got %v", got)
	}
	if got := Serving(append(first, right), 1); len(got) != 3 {
		t.Errorf("lowered: got %v", got)
	}
	if got := Serving([]Instance{at(1, 1, 3), left, right}, 3); len(got) != 3 {
		t.Errorf("after an eviction: got %v", got)
	}
	if got := Serving(append(first, left), 0); len(got) != 3 {
		t.Errorf("without a limit: got %v", got)
	}
}

func TestServingLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 8).Draw(t, "members")
		members := make([]Instance, n)
		for i := range members {
			members[i] = Instance{
				testNode(rapid.IntRange(0, 9).Draw(t, "node")),
				wallStart.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "second")) * time.Second),
				rapid.IntRange(0, 5).Draw(t, "limit then"),
			}
		}
		limit := rapid.IntRange(0, 6).Draw(t, "limit")
		got := Serving(members, limit)
		if again := Serving(rapid.Permutation(members).Draw(t, "order"), limit); !slices.Equal(again, got) {
			t.Fatal("the order matters")
		}
		if twice := Serving(append(members, members...), limit); !slices.Equal(twice, got) {
			t.Fatal("the number matters")
		}
		lower := rapid.IntRange(1, 6).Draw(t, "lower")
		if limit != 0 && lower > limit {
			return
		}
		// Those whose sponsor knew the limit, and who served under it, go on under a lower one.
		for _, m := range members {
			m.Limit = limit
			known := slices.Concat(members, nil)
			for i := range known {
				known[i].Limit = limit
			}
			if slices.Contains(Serving(known, limit), m.Node) && !slices.Contains(Serving(known, lower), m.Node) {
				t.Fatal("lowering stopped one that served")
			}
		}
		greatest := limit
		for _, m := range members {
			if m.Limit == 0 || greatest == 0 {
				return
			}
			greatest = max(greatest, m.Limit)
		}
		if greatest > 0 && len(got) > greatest {
			t.Fatalf("%d serve, never were more than %d allowed", len(got), greatest)
		}
	})
}

func TestMaxInstances(t *testing.T) {
	for _, n := range []int{1, 3, MaxInstances} {
		if got, err := ParseMaxInstances(FormatMaxInstances(n)); got != n || err != nil {
			t.Error(got, err)
		}
	}
	for _, text := range []string{"", "three", "+3", "03", "3 ", "99999999999999999999"} {
		if _, err := ParseMaxInstances([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	var limit *LimitError
	for text, want := range map[string]string{
		"0":     "max-instances is 0, at least 1 is needed",
		"-1":    "max-instances is -1, at least 1 is needed",
		"10001": "max-instances is 10001, at most 10000 is allowed",
	} {
		if _, err := ParseMaxInstances([]byte(text)); !errors.As(err, &limit) || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}
