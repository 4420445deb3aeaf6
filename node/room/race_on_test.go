//go:build race

package room_test

// raceEnabled makes the largest tests smaller.
const raceEnabled = true
