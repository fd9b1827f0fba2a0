//go:build race

package main

// raceDetector: the test binary, which is also the program, was built with it.
const raceDetector = true
