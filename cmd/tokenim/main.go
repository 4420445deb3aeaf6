// Command tokenim runs and manages a TokenIM node.
package main

func main() {}
