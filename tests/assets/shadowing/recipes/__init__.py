OWNER = "shadowing"
