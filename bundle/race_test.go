//go:build race

package bundle

// raceDetector makes decoding ten times slower. Of thousands of cases alike, tests take some with it; make test runs these
// tests without it, too, and then whole.
const raceDetector = true
