//go:build !amd64

package confined

var ofArch []int
