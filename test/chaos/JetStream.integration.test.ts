import { underChaos } from "./underChaos.ts"

underChaos("jetstream")
