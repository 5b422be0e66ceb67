import { underChaos } from "./underChaos.ts"

underChaos("mqtt-0")
