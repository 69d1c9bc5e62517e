//go:build !race

package mesh_test

// raceEnabled makes the largest tests smaller: the race detector does not survive what simulated days make it count.
const raceEnabled = false
