import { underChaos } from "./underChaos.ts"

underChaos("nats")
