// Package hostile has no code of its own: its tests let strangers do what costs them little, to fronts and instances
// that run as in production, with little memory, while users who are known go on. HOSTILE=long is a flood of a minute
// each, as `make hostile` has it, and judges by how much slower the users' turns became; without it the floods are of
// seconds, and only what must hold at any speed is judged.
package hostile
