//go:build !race

package iscsi

// raced: the race detector is built in, and this program slower by some factor than one that burns.
const raced = false
