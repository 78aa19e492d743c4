// Command empty does nothing: what every Go program costs before its own code.
package main

func main() {}
