import { underChaos } from "./underChaos.ts"

underChaos("kafka")
