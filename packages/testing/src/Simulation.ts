export { type Faults, make as network, type Network, type Watch } from "./simulation/Network.ts"
export { Failed, type History, type Options, type Process, run, type World } from "./simulation/World.ts"
