//go:build !amd64

package main

var archAttacks []attack
