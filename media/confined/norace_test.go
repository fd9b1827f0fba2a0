//go:build !race

package confined

const race = false
