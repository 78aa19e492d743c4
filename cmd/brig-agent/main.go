// Command brig-agent is the first program of a virtual machine: see package agent.
package main

import "brig/internal/vmm/agent"

func main() { agent.Main() }
