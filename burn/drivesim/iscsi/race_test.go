//go:build race

package iscsi

const raced = true
