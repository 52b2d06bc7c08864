"""What the machine and its processes give: whole files, growing files, figures. No torch."""
