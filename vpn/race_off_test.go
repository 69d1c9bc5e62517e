//go:build !race

package vpn_test

// raceEnabled makes the largest tests smaller under the race detector.
const raceEnabled = false
