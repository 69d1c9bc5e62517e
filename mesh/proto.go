package mesh

import "fmt"

// protoMin is the oldest version of the protocol that this code speaks; protoMax is the newest.
const protoMin = 1

// Protocol returns the versions of the protocol that this program speaks.
func Protocol() (oldest, newest uint) { return protoMin, protoMax }

// common returns the newest version that we and a peer that speaks those from oldest to newest have in common.
func common(oldest, newest uint) (version uint, ok bool) {
	return min(newest, protoMax), oldest <= protoMax && newest >= protoMin
}

// unlike says, for the other side, why there is no version in common.
func unlike(oldest, newest uint) string {
	what := "new"
	if newest < protoMin {
		what = "old"
	}
	return fmt.Sprintf("your version is too %s: you speak %s of the protocol, the other side %s",
		what, versions(oldest, newest), versions(protoMin, protoMax))
}

func versions(oldest, newest uint) string {
	if oldest == newest {
		return fmt.Sprint(oldest)
	}
	return fmt.Sprintf("%d to %d", oldest, newest)
}
